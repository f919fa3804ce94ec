// amqplib on Node.js, as the applications of ../__init__.py: `node amqplib_client.js ROLE --name ... --broker ...`.
'use strict';

const fs = require('fs');
const { parseArgs } = require('util');
const amqp = require('amqplib');

const HEARTBEAT_S = 10;
const CONNECT_TIMEOUT_MS = 5000;
const RECONNECT_PAUSE_MS = 50;
const UNCONFIRMED_MAX = 500;
const FINISH_MS = 30000;
const REPLY_TIMEOUT_MS = 5000;
const TICK_MS = 10;
const DIRECT_REPLY_TO = 'amq.rabbitmq.reply-to';

const single = { type: 'string' };
const { values: asked, positionals: [role] } = parseArgs({
  allowPositionals: true,
  options: {
    name: single, broker: { type: 'string', multiple: true }, queue: single, 'queue-type': single, run: single,
    rate: single, prefetch: single,
  },
});
const rate = Number(asked.rate);
let stopping = false;
let stopAt = Infinity;
let last = 0;
let offset = 'first';

process.on('SIGINT', () => {});
process.on('SIGTERM', () => {
  if (!stopping) {
    stopping = true;
    stopAt = Date.now() + FINISH_MS;
  }
});

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const body = (number) => Buffer.from(`${asked.run} ${number}`);

function tell(kind, number = 0, detail = null) {
  const atS = Number(process.hrtime.bigint()) / 1e9; // CLOCK_MONOTONIC
  fs.writeSync(1, `${JSON.stringify([atS, kind, number, detail])}\n`);
}

function tellDelivered(message) {
  const [run, number] = message.content.toString().split(' ');
  if (run !== asked.run) throw new Error(`a message of run ${run} in the queue of run ${asked.run}`);
  const headers = message.properties.headers || {};
  if ('x-stream-offset' in headers) offset = Number(headers['x-stream-offset']) + 1;
  tell('delivered', Number(number), message.fields.redelivered);
}

// A channel and its connection often end together: the application sees that once.
class Loss {
  seen = false;
  expected = false;
  tell(error) {
    if (!this.seen && !this.expected) {
      this.seen = true;
      tell('disconnected', 0, String(error || 'closed').slice(0, 300));
    }
  }
  watch(emitter) {
    emitter.on('error', (error) => this.tell(error));
    emitter.on('close', (error) => this.tell(error));
  }
}

async function serve(work, { confirms = false } = {}) {
  for (let turn = 0; !stopping; turn += 1) {
    const [hostname, port] = asked.broker[turn % asked.broker.length].split(':');
    let connection;
    try {
      connection = await amqp.connect(
        { hostname, port: Number(port), username: 'guest', password: 'guest', heartbeat: HEARTBEAT_S },
        { clientProperties: { connection_name: asked.name }, timeout: CONNECT_TIMEOUT_MS },
      );
    } catch (error) {
      tell('refused', 0, String(error).slice(0, 200));
      await sleep(RECONNECT_PAUSE_MS);
      continue;
    }
    tell('connected', 0, `${hostname}:${port}`);
    const loss = new Loss();
    loss.watch(connection);
    try {
      const channel = confirms ? await connection.createConfirmChannel() : await connection.createChannel();
      loss.watch(channel);
      await work(channel, loss);
      loss.expected = true;
      await connection.close();
    } catch (error) {
      loss.tell(error);
      connection.close().catch(() => {});
    }
    await sleep(RECONNECT_PAUSE_MS);
  }
}

async function publish(channel, loss) {
  let unconfirmed = 0;
  const settled = (number) => (error) => {
    unconfirmed -= 1;
    if (!error) tell('confirmed', number);
    else if (error.message === 'message nacked') tell('nacked', number);
  };
  while (!loss.seen && !(stopping && (unconfirmed === 0 || Date.now() > stopAt))) {
    for (let n = 0; !stopping && n < Math.round((rate * TICK_MS) / 1000) && unconfirmed < UNCONFIRMED_MAX; n += 1) {
      last += 1;
      unconfirmed += 1;
      tell('published', last);
      channel.publish('', asked.queue, body(last), { persistent: true }, settled(last));
    }
    await sleep(TICK_MS);
  }
}

async function publishPlain(channel, loss) {
  while (!loss.seen && !stopping) {
    for (let n = 0; n < Math.round((rate * TICK_MS) / 1000); n += 1) {
      last += 1;
      tell('published', last);
      channel.publish('', asked.queue, body(last), { persistent: true });
    }
    await sleep(TICK_MS);
  }
}

async function receive(channel, loss, onMessage) {
  await channel.prefetch(Number(asked.prefetch));
  const options = asked['queue-type'] === 'stream' ? { arguments: { 'x-stream-offset': offset } } : {};
  await channel.consume(asked.queue, (message) => {
    if (message === null) loss.tell(new Error('the broker cancelled the consumer'));
    else onMessage(message);
  }, options);
  while (!loss.seen && !stopping) await sleep(TICK_MS);
}

const consume = (channel, loss) => receive(channel, loss, (message) => {
  tellDelivered(message);
  channel.ack(message);
});

const answer = (channel, loss) => receive(channel, loss, (message) => {
  tellDelivered(message);
  const { replyTo, correlationId } = message.properties;
  channel.publish('', replyTo, message.content, { correlationId });
  channel.ack(message);
});

async function get(channel, loss) {
  while (!loss.seen && !stopping) {
    const message = await channel.get(asked.queue);
    if (message === false) {
      await sleep(TICK_MS);
    } else {
      tellDelivered(message);
      channel.ack(message);
    }
  }
}

async function askBy(channel, loss, address) {
  const answered = new Set();
  await channel.consume(address, (message) => {
    if (message === null) loss.tell(new Error('the broker cancelled the consumer'));
    else answered.add(message.properties.correlationId);
  }, { noAck: true });
  while (!loss.seen && !stopping) {
    await sleep(1000 / rate);
    last += 1;
    const id = String(last);
    tell('published', last);
    while (!answered.has(id)) {
      channel.publish('', asked.queue, body(last), { persistent: true, replyTo: address, correlationId: id });
      const until = Date.now() + REPLY_TIMEOUT_MS;
      while (!loss.seen && !answered.has(id) && Date.now() < until) await sleep(1);
      if (loss.seen) return;
      if (!answered.has(id)) {
        if (stopping && Date.now() > stopAt) return;
        tell('unanswered', last);
      }
    }
    tell('confirmed', last);
    answered.clear();
  }
}

async function ask(channel, loss) {
  const { queue } = await channel.assertQueue('', { exclusive: true });
  await askBy(channel, loss, queue);
}

const roles = {
  publish: () => serve(publish, { confirms: true }),
  publish_plain: () => serve(publishPlain),
  consume: () => serve(consume),
  get: () => serve(get),
  ask: () => serve(ask),
  ask_direct: () => serve((channel, loss) => askBy(channel, loss, DIRECT_REPLY_TO)),
  answer: () => serve(answer),
};

roles[role]().then(() => {
  tell('finished');
  process.exit(0);
}, (error) => {
  console.error(error);
  process.exit(1);
});
