/* load: clients that cost nothing, for the throughput benchmark.
 *
 *   load publish  HOST:PORT SIZE SECONDS WINDOW    publish as fast as it goes; WINDOW 0: without confirms, else so many
 *                                                  unsettled at most
 *   load consume  HOST:PORT SIZE SECONDS           consume a flood, acknowledge every delivery by itself
 *   load trip     HOST:PORT SIZE COUNT SESSIONS    one confirmed publish after the other, in each of the sessions
 *   load paced    HOST:PORT SIZE SECONDS SESSIONS CHANNELS RATE
 *                                                  RATE confirmed publishes a second in all, spread over the channels
 *   load sessions HOST:PORT SIZE SECONDS           connect, handshake, channel, one publish, close; eight at a time
 *   load idle     HOST:PORT COUNT                  open sessions with one channel each, hold them until stdin ends;
 *                                                  heartbeats both ways, whose absence is an error
 *
 * The first four open their sessions and use them a little, print "ready", and wait for a line before what counts
 * begins. trip prints its times in microseconds, sorted, one a line; the others print "messages seconds".
 * Against a real broker the queue is a transient classic one that keeps its newest 1000 messages. */
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>

#include "wire.h"

/* What RabbitMQ suggests. */
enum { HEARTBEAT_S = 60 };
/* Unsettled bytes in flight: what a busy publisher allows itself, for the large messages. */
enum { WINDOW_BYTES = 8 << 20, WARM_UP = 100, CHANNEL_MAX = 1024, OPENERS = 8 };

typedef struct {
  Reader in;
  uint8_t *out;
  Writer w;
} Client;

/* Read until this method comes on any channel; what else comes is skipped. */
static void expect(Client *c, uint32_t id) {
  Frame f;
  for (;;) {
    while (buffered(&c->in, &f)) {
      if (f.type != METHOD) continue;
      if (get32(f.payload) == id) return;
      if (get32(f.payload) == ID(10, 50) || get32(f.payload) == ID(20, 40)) {
        fprintf(stderr, "closed: %u %.*s\n", get16(f.payload + 4), f.payload[6], (const char *)f.payload + 7);
        exit(1);
      }
    }
    if (fill(&c->in)) fail("connection lost");
  }
}
static void flush(Client *c) {
  if (send_written(c->in.fd, c->out, &c->w)) fail("send");
}

static void open_channel(Client *c, uint16_t channel) {
  uint8_t *payload = begin_method(&c->w, channel, ID(20, 10));
  shortstr(&c->w, ""), end_frame(&c->w, payload);
}
static Client dial_beating(const char *target, int heartbeat_s) {
  char host[64];
  int port, one = 1;
  if (sscanf(target, "%63[^:]:%d", host, &port) != 2) errno = 0, fail("HOST:PORT expected");
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  inet_pton(AF_INET, host, &address.sin_addr);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  Client c = {.in = reader(fd), .out = malloc(BATCH_BYTES + (2 << 20))};
  c.w.at = c.out;
  uint8_t *payload;
  raw(&c.w, "AMQP\0\0\11\1", 8), flush(&c), expect(&c, ID(10, 10));
  payload = begin_method(&c.w, 0, ID(10, 11));
  u32(&c.w, 0), shortstr(&c.w, "PLAIN"), u32(&c.w, 12), raw(&c.w, "\0guest\0guest", 12), shortstr(&c.w, "en_US");
  end_frame(&c.w, payload), flush(&c), expect(&c, ID(10, 30));
  payload = begin_method(&c.w, 0, ID(10, 31));
  u16(&c.w, CHANNEL_MAX), u32(&c.w, FRAME_MAX), u16(&c.w, heartbeat_s), end_frame(&c.w, payload);
  payload = begin_method(&c.w, 0, ID(10, 40));
  shortstr(&c.w, "/"), shortstr(&c.w, ""), u8(&c.w, 0), end_frame(&c.w, payload), flush(&c), expect(&c, ID(10, 41));
  open_channel(&c, 1), flush(&c), expect(&c, ID(20, 11));
  return c;
}
static Client dial(const char *target) { return dial_beating(target, 0); }
/* As libraries do: the close is answered, then the client closes its socket. RabbitMQ would wait for that. Linux takes
 * a port of loopback again after a second. */
static void hang_up(Client *c) {
  uint8_t *payload = begin_method(&c->w, 0, ID(10, 50));
  u16(&c->w, 200), shortstr(&c->w, ""), u32(&c->w, 0), end_frame(&c->w, payload), flush(c), expect(c, ID(10, 51));
  close(c->in.fd), free(c->in.buffer), free(c->out);
}

static void declare(Client *c, const char *queue) {
  uint8_t *payload = begin_method(&c->w, 1, ID(50, 10)), *table;
  u16(&c->w, 0), shortstr(&c->w, queue), u8(&c->w, 8), u32(&c->w, 0), table = c->w.at; /* auto-delete */
  shortstr(&c->w, "x-max-length"), u8(&c->w, 'I'), u32(&c->w, 1000);
  Writer size = {table - 4};
  u32(&size, c->w.at - table);
  end_frame(&c->w, payload), flush(c), expect(c, ID(50, 11));
}
static void confirms(Client *c, uint16_t channel) {
  uint8_t *payload = begin_method(&c->w, channel, ID(85, 10));
  u8(&c->w, 0), end_frame(&c->w, payload);
}
/* Everything is set up: the other side may look at the clock, or cut the connection to the broker. */
static void await_start(void) {
  printf("ready\n"), fflush(stdout);
  if (getchar() == EOF) exit(0);
}
static void close_channel(Client *c) {
  uint8_t *payload = begin_method(&c->w, 1, ID(20, 40));
  u16(&c->w, 200), shortstr(&c->w, "done"), u32(&c->w, 0);
  end_frame(&c->w, payload), flush(c), expect(c, ID(20, 41));
}
static void one_publish(Writer *w, uint16_t channel, size_t size, const uint8_t *body) {
  uint8_t *payload = begin_method(w, channel, ID(60, 40));
  u16(w, 0), shortstr(w, ""), shortstr(w, "bench"), u8(w, 0);
  end_frame(w, payload), content(w, channel, size, body);
}

/* Which publishes are settled, as a ring over the window: a real broker settles singly, many at once, out of order. */
enum { RING = 1 << 17 };
typedef struct {
  uint8_t done[RING];
  uint64_t open; /* the lowest tag that is not settled */
} Settled;
static void read_confirms(Client *c, Settled *settled) {
  Frame f;
  while (buffered(&c->in, &f)) {
    if (f.type != METHOD) continue;
    if (get32(f.payload) != ID(60, 80)) errno = 0, fail("not a confirm");
    uint64_t tag = get64(f.payload + 4);
    if (tag >= settled->open + RING) errno = 0, fail("a confirm of what was never published");
    for (uint64_t first = f.payload[12] & 1 ? settled->open : tag; first <= tag; first++) settled->done[first % RING] = 1;
    for (; settled->done[settled->open % RING]; settled->open++) settled->done[settled->open % RING] = 0;
  }
}

static void publish(Client *c, size_t size, double seconds, uint64_t window, const uint8_t *body) {
  static Settled settled = {.open = 1};
  uint64_t sent = 0, confirm = window, affordable = WINDOW_BYTES / (size + 1);
  if (window >= RING) errno = 0, fail("the window is too large");
  if (window > affordable) window = affordable;
  uint8_t *batch = malloc(2 * BATCH_BYTES + 2 * size);
  Writer w = {batch};
  size_t most = 0;
  do one_publish(&w, 1, size, body), most++;
  while (w.at - batch < BATCH_BYTES / 4);
  size_t message_bytes = (w.at - batch) / most;
  for (; sent < WARM_UP; sent++) {
    if (send_all(c->in.fd, batch, message_bytes)) fail("send");
    struct pollfd ready = {c->in.fd, POLLIN, 0};
    if (!confirm) continue;
    while (sent + 1 >= settled.open + window || poll(&ready, 1, 0) > 0) {
      if (fill(&c->in)) fail("connection lost");
      read_confirms(c, &settled);
    }
  }
  await_start();
  double start = now(), end = start + seconds;
  while (now() < end) {
    uint64_t unsettled = sent + 1 - settled.open, count = most;
    if (confirm && count > window - unsettled) count = window - unsettled;
    if (send_all(c->in.fd, batch, count * message_bytes)) fail("send");
    sent += count;
    struct pollfd ready = {c->in.fd, POLLIN, 0};
    if (confirm && poll(&ready, 1, sent + 1 - settled.open >= window ? -1 : 0) > 0) {
      if (fill(&c->in)) fail("connection lost");
      read_confirms(c, &settled);
    }
  }
  /* The close is answered when everything before it has arrived. */
  close_channel(c);
  printf("%llu %.6f\n", (unsigned long long)(sent - WARM_UP), now() - start);
}

static void consume(Client *c, size_t size, double seconds) {
  char queue[64];
  uint64_t got = 0, body_left = 0, tag = 0;
  Frame f;
  snprintf(queue, sizeof queue, "flood.%zu", size);
  uint8_t *payload = begin_method(&c->w, 1, ID(60, 10));
  u32(&c->w, 0), u16(&c->w, PREFETCH), u8(&c->w, 0), end_frame(&c->w, payload), flush(c), expect(c, ID(60, 11));
  payload = begin_method(&c->w, 1, ID(60, 20));
  u16(&c->w, 0), shortstr(&c->w, queue), shortstr(&c->w, "tag"), u8(&c->w, 0), u32(&c->w, 0);
  end_frame(&c->w, payload), flush(c), expect(c, ID(60, 21));
  double start = 0;
  for (;;) {
    if (!start && got >= PREFETCH) await_start(), got = 0, start = now();
    if (start && now() >= start + seconds) break;
    while (buffered(&c->in, &f)) {
      if (f.type == METHOD) tag = get64(f.payload + 5 + f.payload[4]);
      else if (f.type == HEADER) body_left = get64(f.payload + 4);
      else if (f.type == BODY && !(body_left -= f.size)) {
        payload = begin_method(&c->w, 1, ID(60, 80));
        u64(&c->w, tag), u8(&c->w, 0), end_frame(&c->w, payload);
        got++;
      }
    }
    flush(c);
    if (fill(&c->in)) fail("connection lost");
  }
  printf("%llu %.6f\n", (unsigned long long)got, now() - start);
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static int watch(const Client *clients, int sessions) {
  int watcher = epoll_create1(0);
  for (int n = 0; n < sessions; n++) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = n};
    if (epoll_ctl(watcher, EPOLL_CTL_ADD, clients[n].in.fd, &event)) fail("epoll");
  }
  return watcher;
}
/* How many publishes the confirms that have arrived settle. `last` is what was settled before, for each channel. */
static int settled_now(Client *c, uint64_t *last) {
  int count = 0;
  for (Frame f; buffered(&c->in, &f);) {
    if (f.type != METHOD) continue;
    if (get32(f.payload) != ID(60, 80)) errno = 0, fail("not a confirm");
    uint64_t tag = get64(f.payload + 4);
    /* In order but for single ones, which count by themselves. */
    if (f.payload[12] & 1) count += tag - last[f.channel], last[f.channel] = tag;
    else count++, last[f.channel]++;
  }
  return count;
}
static Client *dial_all(const char *target, int sessions, int channels) {
  Client *clients = malloc(sessions * sizeof *clients);
  if (channels > CHANNEL_MAX) errno = 0, fail("too many channels");
  for (int n = 0; n < sessions; n++) {
    Client *c = &clients[n];
    *c = dial(target);
    if (!n) declare(c, "bench");
    for (int channel = 2; channel <= channels; channel++) open_channel(c, channel);
    for (int channel = 1; channel <= channels; channel++) confirms(c, channel);
    flush(c);
    for (int channel = 1; channel <= channels; channel++) expect(c, ID(85, 11));
  }
  return clients;
}

static void trip(const char *target, size_t size, int count, int sessions, const uint8_t *body) {
  Client *clients = dial_all(target, sessions, 1);
  double *took = malloc((count + sessions) * sizeof *took), *sent_at = calloc(sessions, sizeof *sent_at);
  uint64_t(*last)[2] = calloc(sessions, sizeof *last);
  int watcher = watch(clients, sessions), done = 0;
  for (int n = 0; n < sessions; n++) {
    one_publish(&clients[n].w, 1, size, body), flush(&clients[n]), expect(&clients[n], ID(60, 80)), last[n][1] = 1;
  }
  await_start();
  for (int n = 0; n < sessions; n++) sent_at[n] = now(), one_publish(&clients[n].w, 1, size, body), flush(&clients[n]);
  for (int open = sessions; open;) {
    struct epoll_event events[64];
    int ready = epoll_wait(watcher, events, 64, -1);
    for (int e = 0; e < ready; e++) {
      int n = events[e].data.u32;
      if (fill(&clients[n].in)) fail("connection lost");
      if (!settled_now(&clients[n], last[n])) continue;
      double at = now();
      took[done++] = (at - sent_at[n]) * 1e6;
      if (done + open > count) {
        open--;
        continue;
      }
      sent_at[n] = at, one_publish(&clients[n].w, 1, size, body), flush(&clients[n]);
    }
  }
  qsort(took, done, sizeof *took, by_value);
  for (int n = 0; n < done; n++) printf("%.2f\n", took[n]);
}

static void paced(const char *target, size_t size, double seconds, int sessions, int channels, double rate,
                  const uint8_t *body) {
  Client *clients = dial_all(target, sessions, channels);
  uint64_t(*last)[CHANNEL_MAX + 1] = calloc(sessions, sizeof *last), sent = 0, settled = 0;
  int watcher = watch(clients, sessions);
  await_start();
  double start = now(), end = start + seconds;
  for (double at = start; at < end || settled < sent; at = now()) {
    for (; at < end && sent < (at - start) * rate; sent++) {
      Client *c = &clients[sent % sessions];
      one_publish(&c->w, 1 + sent / sessions % channels, size, body), flush(c);
    }
    struct epoll_event events[256];
    int ready = epoll_wait(watcher, events, 256, 1);
    for (int e = 0; e < ready; e++) {
      int n = events[e].data.u32;
      if (fill(&clients[n].in)) fail("connection lost");
      settled += settled_now(&clients[n], last[n]);
    }
    if (at > end + 30) errno = 0, fail("confirms are missing");
  }
  printf("%llu %.6f\n", (unsigned long long)sent, now() - start);
}

typedef struct {
  const char *target;
  size_t size;
  double end;
  const uint8_t *body;
  uint64_t opened;
} Opener;
static void *open_sessions(void *argument) {
  Opener *opener = argument;
  while (now() < opener->end) {
    Client c = dial(opener->target);
    one_publish(&c.w, 1, opener->size, opener->body), flush(&c), hang_up(&c);
    opener->opened++;
  }
  return NULL;
}
static void sessions(const char *target, size_t size, double seconds, const uint8_t *body) {
  pthread_t threads[OPENERS];
  Opener openers[OPENERS];
  uint64_t opened = 0;
  Client keeper = dial(target); /* else a real broker has no queue to publish to */
  declare(&keeper, "bench");
  double start = now();
  for (int n = 0; n < OPENERS; n++) {
    openers[n] = (Opener){target, size, start + seconds, body, 0};
    if (pthread_create(&threads[n], NULL, open_sessions, &openers[n])) fail("thread");
  }
  for (int n = 0; n < OPENERS; n++) pthread_join(threads[n], NULL), opened += openers[n].opened;
  printf("%llu %.6f\n", (unsigned long long)opened, now() - start);
  hang_up(&keeper);
}

/* Half an interval after its last one each session says a heartbeat; after two silent ones its peer is dead. */
static void beat(Client *clients, int count, double *said, double *heard) {
  double time = now();
  for (int n = 0; n < count; n++) {
    if (time < said[n] + HEARTBEAT_S / 2.0) continue;
    Client *c = clients + n;
    Frame f;
    while (recv(c->in.fd, c->out, 1, MSG_PEEK | MSG_DONTWAIT) >= 0) {
      if (fill(&c->in)) fail("connection lost");
      while (buffered(&c->in, &f)) heard[n] = time;
    }
    if (time > heard[n] + 2 * HEARTBEAT_S) errno = 0, fail("no heartbeat came");
    end_frame(&c->w, begin_frame(&c->w, HEARTBEAT, 0)), flush(c);
    said[n] = time;
  }
}

static void idle(const char *target, int count) {
  Client *clients = malloc(count * sizeof *clients);
  double *said = malloc(count * sizeof *said), *heard = malloc(count * sizeof *heard);
  for (int n = 0; n < count; n++) {
    clients[n] = dial_beating(target, HEARTBEAT_S), said[n] = heard[n] = now();
    if (n % 256 == 0) beat(clients, n, said, heard);
  }
  printf("ready\n"), fflush(stdout);
  struct pollfd told = {0, POLLIN, 0};
  while (!poll(&told, 1, 250)) beat(clients, count, said, heard);
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  if (argc == 4 && !strcmp(argv[1], "idle")) return idle(argv[2], atoi(argv[3])), 0;
  if (argc < 5) return fputs("see the head of load.c\n", stderr), 64;
  const char *kind = argv[1], *target = argv[2];
  size_t size = atoi(argv[3]);
  uint8_t *body = calloc(1, size + 1);
  if (!strcmp(kind, "sessions")) return sessions(target, size, atof(argv[4]), body), 0;
  if (!strcmp(kind, "trip") && argc == 6) return trip(target, size, atoi(argv[4]), atoi(argv[5]), body), 0;
  if (!strcmp(kind, "paced") && argc == 8)
    return paced(target, size, atof(argv[4]), atoi(argv[5]), atoi(argv[6]), atof(argv[7]), body), 0;
  Client c = dial(target);
  if (!strcmp(kind, "consume")) return consume(&c, size, atof(argv[4])), 0;
  if (strcmp(kind, "publish") || argc != 6) return fputs("see the head of load.c\n", stderr), 64;
  uint64_t window = strtoull(argv[5], NULL, 10);
  declare(&c, "bench");
  if (window) confirms(&c, 1), flush(&c), expect(&c, ID(85, 11));
  publish(&c, size, atof(argv[4]), window, body);
  return 0;
}
