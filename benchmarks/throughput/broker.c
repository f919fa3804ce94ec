/* broker PORT [HELD]: a broker that costs nothing. It speaks just enough AMQP 0-9-1 and swallows, confirms and floods without
 * a thought, so that the proxy is the only part of the way that has to think.
 *
 * One thread per connection, blocking reads. A consumer of a queue called flood.SIZE gets deliveries of SIZE bytes up
 * to its prefetch; every publish is confirmed if confirms were asked for, many at once, but for the HELD newest of each
 * channel. SIGUSR1 cuts every connection that is open, as the death of a node would. */
#include <poll.h>
#include <pthread.h>

#include "wire.h"

enum { CHANNELS = 2048, FILES = 65536 };

static uint64_t held; /* publishes of a channel that stay without a confirm */
static volatile char is_open[FILES];

typedef struct {
  Reader in;
  uint8_t *out;
  Writer w;
  int closed;
  uint8_t confirming[CHANNELS];
  uint64_t published[CHANNELS], confirmed[CHANNELS], delivered, settled;
  uint16_t owed[CHANNELS], owing; /* channels with publishes since their last confirm */
  uint64_t body_left; /* of the publish that is arriving */
  uint16_t channel, publisher;
  uint16_t prefetch;
  uint8_t *deliveries; /* a batch of equal deliveries, only their tags change; NULL: nobody consumes */
  size_t delivery_bytes;
  char tag[256];
} Peer;

static void answer(Peer *peer, uint16_t channel, uint32_t id) { end_frame(&peer->w, begin_method(&peer->w, channel, id)); }

static void cut(int signal_number) {
  (void)signal_number;
  for (int fd = 0; fd < FILES; fd++)
    if (is_open[fd]) shutdown(fd, SHUT_RDWR);
}

static void forget_channel(Peer *peer, uint16_t channel) {
  peer->confirming[channel] = 0, peer->published[channel] = peer->confirmed[channel] = 0;
}
static void count_publish(Peer *peer) {
  uint16_t channel = peer->publisher;
  if (peer->confirming[channel] && peer->published[channel]++ == peer->confirmed[channel] + held)
    peer->owed[peer->owing++] = channel;
}
static void confirm_all(Peer *peer) {
  while (peer->owing) {
    uint16_t channel = peer->owed[--peer->owing];
    /* The channel may have been closed since. */
    if (peer->published[channel] <= peer->confirmed[channel] + held) continue;
    uint8_t *ack = begin_method(&peer->w, channel, ID(60, 80));
    u64(&peer->w, peer->confirmed[channel] = peer->published[channel] - held), u8(&peer->w, 1);
    end_frame(&peer->w, ack);
  }
}

static size_t batch_of(size_t message_bytes) {
  return message_bytes < BATCH_BYTES ? BATCH_BYTES / message_bytes : 1;
}
static size_t tag_at(const Peer *peer) { return 7 + 4 + 1 + strlen(peer->tag); }

static void stop_flood(Peer *peer) {
  free(peer->deliveries);
  peer->deliveries = NULL;
}
static void start_flood(Peer *peer, size_t size) {
  uint8_t *one = malloc(size + 4096), *body = calloc(1, size + 1);
  Writer w = {one};
  uint8_t *payload = begin_method(&w, peer->channel, ID(60, 60));
  shortstr(&w, peer->tag), u64(&w, 0), u8(&w, 0), shortstr(&w, ""), shortstr(&w, "flood");
  end_frame(&w, payload), content(&w, peer->channel, size, body);
  peer->delivery_bytes = w.at - one;
  size_t count = batch_of(peer->delivery_bytes);
  peer->deliveries = malloc(count * peer->delivery_bytes);
  for (size_t n = 0; n < count; n++) memcpy(peer->deliveries + n * peer->delivery_bytes, one, peer->delivery_bytes);
  free(one), free(body);
}
static uint64_t window_left(const Peer *peer) {
  uint64_t window = peer->prefetch ? peer->prefetch : PREFETCH;
  return peer->deliveries ? window - (peer->delivered - peer->settled) : 0;
}
/* Deliveries up to the prefetch, as many as fit a batch. */
static int flood(Peer *peer) {
  size_t count = batch_of(peer->delivery_bytes), left = window_left(peer);
  if (count > left) count = left;
  for (size_t n = 0; n < count; n++) {
    Writer w = {peer->deliveries + n * peer->delivery_bytes + tag_at(peer)};
    u64(&w, ++peer->delivered);
  }
  return send_all(peer->in.fd, peer->deliveries, count * peer->delivery_bytes);
}

static void on_method(Peer *peer, const Frame *f) {
  Writer *w = &peer->w;
  const uint8_t *args = f->payload + 4;
  uint8_t *payload;
  if (f->channel >= CHANNELS) errno = 0, fail("a channel beyond what was negotiated");
  switch (get32(f->payload)) {
    case ID(10, 11): /* start-ok */
      payload = begin_method(w, 0, ID(10, 30));
      u16(w, 2047), u32(w, FRAME_MAX), u16(w, 60);
      end_frame(w, payload);
      break;
    case ID(10, 31): break; /* tune-ok */
    case ID(10, 40):
      payload = begin_method(w, 0, ID(10, 41));
      shortstr(w, "");
      end_frame(w, payload);
      break;
    case ID(10, 50): answer(peer, 0, ID(10, 51)), peer->closed = 1; break;
    case ID(10, 51): peer->closed = 1; break;
    case ID(20, 10):
      forget_channel(peer, f->channel);
      payload = begin_method(w, f->channel, ID(20, 11));
      u32(w, 0);
      end_frame(w, payload);
      break;
    case ID(20, 40):
      answer(peer, f->channel, ID(20, 41)), forget_channel(peer, f->channel);
      if (f->channel == peer->channel) stop_flood(peer);
      break;
    case ID(50, 10): /* queue.declare: reserved, name */
      payload = begin_method(w, f->channel, ID(50, 11));
      raw(w, args + 2, 1 + args[2]), u32(w, 0), u32(w, 0);
      end_frame(w, payload);
      break;
    case ID(60, 10): peer->prefetch = get16(args + 4), answer(peer, f->channel, ID(60, 11)); break;
    case ID(60, 20): { /* consume: reserved, queue, tag; the queue is called flood.SIZE */
      const uint8_t *tag = args + 2 + 1 + args[2];
      char queue[256] = {0};
      memcpy(queue, args + 3, args[2]);
      snprintf(peer->tag, sizeof peer->tag, "%.*s", tag[0], (const char *)tag + 1);
      if (!peer->tag[0]) strcpy(peer->tag, "ctag");
      if (!(tag[1 + tag[0]] & 8)) { /* unless nowait */
        payload = begin_method(w, f->channel, ID(60, 21));
        shortstr(w, peer->tag);
        end_frame(w, payload);
      }
      peer->channel = f->channel;
      if (strncmp(queue, "flood.", 6) == 0) start_flood(peer, atoi(queue + 6));
      break;
    }
    case ID(60, 30):
      payload = begin_method(w, f->channel, ID(60, 31));
      shortstr(w, peer->tag);
      end_frame(w, payload);
      stop_flood(peer);
      break;
    case ID(60, 40): peer->publisher = f->channel; break; /* publish: counted with its content */
    case ID(60, 80): {                                  /* ack: tag, multiple */
      uint64_t tag = get64(args);
      peer->settled = args[8] & 1 ? tag : peer->settled + 1;
      break;
    }
    case ID(85, 10): /* confirm.select: nowait */
      if (!(args[0] & 1)) answer(peer, f->channel, ID(85, 11));
      peer->confirming[f->channel] = 1;
      break;
    default:
      fprintf(stderr, "the fake broker does not know method %u.%u\n", get16(f->payload), get16(f->payload + 2));
      peer->closed = 1;
  }
}

static void on_frame(Peer *peer, const Frame *f) {
  switch (f->type) {
    case METHOD: on_method(peer, f); break;
    case HEADER:
      peer->body_left = get64(f->payload + 4);
      if (!peer->body_left) count_publish(peer);
      break;
    case BODY:
      peer->body_left -= f->size;
      if (!peer->body_left) count_publish(peer);
      break;
    case HEARTBEAT: end_frame(&peer->w, begin_frame(&peer->w, HEARTBEAT, 0)); break;
  }
}

static void *serve(void *argument) {
  int fd = (int)(intptr_t)argument, one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  Peer peer = {.in = reader(fd), .out = malloc(2 * BATCH_BYTES)};
  if (fd >= FILES) errno = 0, fail("more connections than can be cut");
  is_open[fd] = 1;
  peer.w.at = peer.out;
  uint8_t hello[8];
  if (recv(fd, hello, 8, MSG_WAITALL) == 8 && !memcmp(hello, "AMQP\0\0\11\1", 8)) {
    /* server-properties: the capabilities a client looks for, each a boolean */
    static const char *able[] = {"publisher_confirms", "basic.nack", "consumer_cancel_notify", "connection.blocked",
                                 "authentication_failure_close", "exchange_exchange_bindings"};
    uint8_t *payload = begin_method(&peer.w, 0, ID(10, 10)), *table, *inner;
    u8(&peer.w, 0), u8(&peer.w, 9), u32(&peer.w, 0), table = peer.w.at;
    shortstr(&peer.w, "capabilities"), u8(&peer.w, 'F'), u32(&peer.w, 0), inner = peer.w.at;
    for (size_t n = 0; n < sizeof able / sizeof *able; n++) shortstr(&peer.w, able[n]), u8(&peer.w, 't'), u8(&peer.w, 1);
    Writer fix = {inner - 4};
    u32(&fix, peer.w.at - inner);
    fix.at = table - 4, u32(&fix, peer.w.at - table);
    u32(&peer.w, 14), raw(&peer.w, "PLAIN AMQPLAIN", 14), u32(&peer.w, 5), raw(&peer.w, "en_US", 5);
    end_frame(&peer.w, payload);
    while (!send_written(fd, peer.out, &peer.w) && !peer.closed) {
      Frame f;
      /* While the window is open, only look whether something arrived; else wait for it. */
      struct pollfd ready = {fd, POLLIN, 0};
      if (poll(&ready, 1, window_left(&peer) ? 0 : -1) > 0 && fill(&peer.in)) break;
      while (!peer.closed && buffered(&peer.in, &f)) {
        on_frame(&peer, &f);
        if (peer.w.at - peer.out > BATCH_BYTES && send_written(fd, peer.out, &peer.w)) goto over;
      }
      confirm_all(&peer);
      if (window_left(&peer) && (send_written(fd, peer.out, &peer.w) || flood(&peer))) break;
    }
  }
over:
  is_open[fd] = 0;
  close(fd), free(peer.in.buffer), free(peer.out), stop_flood(&peer);
  return NULL;
}

static void broker(int port) {
  int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) fail("listen");
  pthread_attr_t small;
  pthread_attr_init(&small), pthread_attr_setstacksize(&small, 1 << 18);
  pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    pthread_t thread;
    if (fd >= 0 && pthread_create(&thread, &small, serve, (void *)(intptr_t)fd)) fail("thread");
  }
}

int main(int argc, char **argv) {
  if (argc != 2 && argc != 3) return fputs("usage: broker PORT [HELD]\n", stderr), 64;
  held = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
  signal(SIGPIPE, SIG_IGN), signal(SIGUSR1, cut);
  broker(atoi(argv[1]));
}
