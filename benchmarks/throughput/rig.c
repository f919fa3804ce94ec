/* rig - the neutral ends of the throughput benchmark: a broker that costs nothing, and clients that cost nothing.
 *
 *   rig broker PORT                              speak just enough AMQP 0-9-1; swallow, confirm, flood
 *   rig publish HOST:PORT SIZE SECONDS CONFIRM   publish as fast as it goes; CONFIRM 1: with confirms, window below
 *   rig consume HOST:PORT SIZE SECONDS           consume a flood, acknowledge every delivery by itself
 *   rig trip    HOST:PORT SIZE COUNT             one confirmed publish after the other
 *   rig idle    HOST:PORT COUNT                  open sessions with one channel each, hold them until stdin ends
 *
 * One thread per connection on both ends, blocking reads. The proxy under test is the only thing that has to think.
 * publish and consume print "messages seconds"; trip prints its times in microseconds, sorted, one a line.
 * Against a real broker the queue is a transient classic one that keeps its newest 1000 messages.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FRAME_MAX = 131072, READ_MAX = 1 << 20, BATCH_BYTES = 1 << 18, PREFETCH = 1000 };
enum { METHOD = 1, HEADER = 2, BODY = 3, HEARTBEAT = 8 };
#define ID(class, method) ((uint32_t)(class) << 16 | (method))

/* Unsettled publishes in flight: what a busy publisher allows itself. Bytes bound the large ones. */
enum { WINDOW_MESSAGES = 2000, WINDOW_BYTES = 8 << 20 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *what) {
  fprintf(stderr, "rig: %s: %s\n", what, errno ? strerror(errno) : "unexpected answer");
  exit(1);
}

/* ---- frames ---------------------------------------------------------------------------------------------------- */

typedef struct {
  uint8_t *at;
} Writer;

static void u8(Writer *w, uint8_t v) { *w->at++ = v; }
static void u16(Writer *w, uint16_t v) { u8(w, v >> 8), u8(w, v); }
static void u32(Writer *w, uint32_t v) { u16(w, v >> 16), u16(w, v); }
static void u64(Writer *w, uint64_t v) { u32(w, v >> 32), u32(w, v); }
static void raw(Writer *w, const void *bytes, size_t n) { memcpy(w->at, bytes, n), w->at += n; }
static void shortstr(Writer *w, const char *s) { u8(w, strlen(s)), raw(w, s, strlen(s)); }

static uint16_t get16(const uint8_t *p) { return p[0] << 8 | p[1]; }
static uint32_t get32(const uint8_t *p) { return (uint32_t)get16(p) << 16 | get16(p + 2); }
static uint64_t get64(const uint8_t *p) { return (uint64_t)get32(p) << 32 | get32(p + 4); }

/* Begin a frame; end_frame fills in its size. */
static uint8_t *begin_frame(Writer *w, uint8_t type, uint16_t channel) {
  u8(w, type), u16(w, channel), u32(w, 0);
  return w->at;
}
static void end_frame(Writer *w, uint8_t *payload) {
  Writer size = {payload - 4};
  u32(&size, w->at - payload);
  u8(w, 0xCE);
}
static uint8_t *begin_method(Writer *w, uint16_t channel, uint32_t id) {
  uint8_t *payload = begin_frame(w, METHOD, channel);
  u32(w, id);
  return payload;
}

/* The content of a message: a header frame and as many body frames as it takes. */
static void content(Writer *w, uint16_t channel, size_t size, const uint8_t *body) {
  uint8_t *payload = begin_frame(w, HEADER, channel);
  u16(w, 60), u16(w, 0), u64(w, size);
  u16(w, 0x1000), u8(w, 2); /* delivery-mode: persistent */
  end_frame(w, payload);
  for (size_t sent = 0; sent < size;) {
    size_t part = size - sent < FRAME_MAX - 8 ? size - sent : FRAME_MAX - 8;
    payload = begin_frame(w, BODY, channel);
    raw(w, body + sent, part), sent += part;
    end_frame(w, payload);
  }
}

static int send_all(int fd, const uint8_t *bytes, size_t n) {
  while (n) {
    ssize_t done = send(fd, bytes, n, MSG_NOSIGNAL);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return -1;
    bytes += done, n -= done;
  }
  return 0;
}
static int send_written(int fd, uint8_t *start, Writer *w) {
  int result = send_all(fd, start, w->at - start);
  w->at = start;
  return result;
}

/* A reader hands out whole frames, in place, valid until the next read. */
typedef struct {
  int fd;
  uint8_t *buffer;
  size_t start, stop;
} Reader;
typedef struct {
  uint8_t type;
  uint16_t channel;
  uint32_t size;
  const uint8_t *payload;
} Frame;

static Reader reader(int fd) { return (Reader){fd, malloc(READ_MAX), 0, 0}; }

static int buffered(Reader *r, Frame *f) {
  size_t have = r->stop - r->start;
  const uint8_t *p = r->buffer + r->start;
  if (have < 8) return 0;
  f->type = p[0], f->channel = get16(p + 1), f->size = get32(p + 3), f->payload = p + 7;
  if (f->size > FRAME_MAX) errno = 0, fail("frame larger than negotiated");
  if (have < f->size + 8) return 0;
  if (p[7 + f->size] != 0xCE) errno = 0, fail("frame without its end octet");
  r->start += f->size + 8;
  return 1;
}
static int fill(Reader *r) {
  memmove(r->buffer, r->buffer + r->start, r->stop - r->start);
  r->stop -= r->start, r->start = 0;
  ssize_t got;
  do got = recv(r->fd, r->buffer + r->stop, READ_MAX - r->stop, 0);
  while (got < 0 && errno == EINTR);
  if (got <= 0) return -1;
  r->stop += got;
  return 0;
}

/* ---- the broker that costs nothing ------------------------------------------------------------------------------ */

typedef struct {
  Reader in;
  uint8_t *out;
  Writer w;
  int confirming, closed;
  uint64_t published, confirmed, delivered, settled;
  uint64_t body_left; /* of the publish that is arriving */
  uint16_t channel;
  uint16_t prefetch;
  uint8_t *deliveries; /* a batch of equal deliveries, only their tags change; NULL: nobody consumes */
  size_t delivery_bytes;
  char tag[256];
} Peer;

static void answer(Peer *peer, uint16_t channel, uint32_t id) { end_frame(&peer->w, begin_method(&peer->w, channel, id)); }

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
      payload = begin_method(w, f->channel, ID(20, 11));
      u32(w, 0);
      end_frame(w, payload);
      break;
    case ID(20, 40): answer(peer, f->channel, ID(20, 41)), stop_flood(peer); break;
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
    case ID(60, 40): peer->channel = f->channel; break; /* publish: counted with its content */
    case ID(60, 80): {                                  /* ack: tag, multiple */
      uint64_t tag = get64(args);
      peer->settled = args[8] & 1 ? tag : peer->settled + 1;
      break;
    }
    case ID(85, 10): /* confirm.select: nowait */
      if (!(args[0] & 1)) answer(peer, f->channel, ID(85, 11));
      peer->confirming = 1;
      break;
    default:
      fprintf(stderr, "rig: the fake broker does not know method %u.%u\n", get16(f->payload), get16(f->payload + 2));
      peer->closed = 1;
  }
}

static void on_frame(Peer *peer, const Frame *f) {
  switch (f->type) {
    case METHOD: on_method(peer, f); break;
    case HEADER:
      peer->body_left = get64(f->payload + 4);
      peer->published += !peer->body_left;
      break;
    case BODY:
      peer->body_left -= f->size;
      peer->published += !peer->body_left;
      break;
    case HEARTBEAT: end_frame(&peer->w, begin_frame(&peer->w, HEARTBEAT, 0)); break;
  }
}

static void *serve(void *argument) {
  int fd = (int)(intptr_t)argument, one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  Peer peer = {.in = reader(fd), .out = malloc(2 * BATCH_BYTES)};
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
      if (peer.confirming && peer.confirmed < peer.published) {
        uint8_t *ack = begin_method(&peer.w, peer.channel, ID(60, 80));
        u64(&peer.w, peer.confirmed = peer.published), u8(&peer.w, 1);
        end_frame(&peer.w, ack);
      }
      if (window_left(&peer) && (send_written(fd, peer.out, &peer.w) || flood(&peer))) break;
    }
  }
over:
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

/* ---- the clients ------------------------------------------------------------------------------------------------ */

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
        fprintf(stderr, "rig: closed: %u %.*s\n", get16(f.payload + 4), f.payload[6], (const char *)f.payload + 7);
        exit(1);
      }
    }
    if (fill(&c->in)) fail("connection lost");
  }
}
static void flush(Client *c) {
  if (send_written(c->in.fd, c->out, &c->w)) fail("send");
}

static Client dial(const char *target) {
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
  u16(&c.w, 64), u32(&c.w, FRAME_MAX), u16(&c.w, 0), end_frame(&c.w, payload);
  payload = begin_method(&c.w, 0, ID(10, 40));
  shortstr(&c.w, "/"), shortstr(&c.w, ""), u8(&c.w, 0), end_frame(&c.w, payload), flush(&c), expect(&c, ID(10, 41));
  payload = begin_method(&c.w, 1, ID(20, 10));
  shortstr(&c.w, ""), end_frame(&c.w, payload), flush(&c), expect(&c, ID(20, 11));
  return c;
}

static void declare(Client *c, const char *queue) {
  uint8_t *payload = begin_method(&c->w, 1, ID(50, 10)), *table;
  u16(&c->w, 0), shortstr(&c->w, queue), u8(&c->w, 8), u32(&c->w, 0), table = c->w.at; /* auto-delete */
  shortstr(&c->w, "x-max-length"), u8(&c->w, 'I'), u32(&c->w, 1000);
  Writer size = {table - 4};
  u32(&size, c->w.at - table);
  end_frame(&c->w, payload), flush(c), expect(c, ID(50, 11));
}
static void confirms(Client *c) {
  uint8_t *payload = begin_method(&c->w, 1, ID(85, 10));
  u8(&c->w, 0), end_frame(&c->w, payload), flush(c), expect(c, ID(85, 11));
}
static void close_channel(Client *c) {
  uint8_t *payload = begin_method(&c->w, 1, ID(20, 40));
  u16(&c->w, 200), shortstr(&c->w, "done"), u32(&c->w, 0);
  end_frame(&c->w, payload), flush(c), expect(c, ID(20, 41));
}
static void one_publish(Writer *w, const char *queue, size_t size, const uint8_t *body) {
  uint8_t *payload = begin_method(w, 1, ID(60, 40));
  u16(w, 0), shortstr(w, ""), shortstr(w, queue), u8(w, 0);
  end_frame(w, payload), content(w, 1, size, body);
}

/* Which publishes are settled, as a ring over the window: a real broker settles singly, many at once, out of order. */
enum { RING = 4096 };
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

static void publish(Client *c, size_t size, double seconds, int confirm, const uint8_t *body) {
  uint64_t sent = 0, window = WINDOW_BYTES / (size + 1);
  if (window > WINDOW_MESSAGES) window = WINDOW_MESSAGES;
  Settled settled = {.open = 1};
  uint8_t *batch = malloc(2 * BATCH_BYTES + 2 * size);
  Writer w = {batch};
  size_t most = 0;
  do one_publish(&w, "bench", size, body), most++;
  while (w.at - batch < BATCH_BYTES / 4);
  size_t message_bytes = (w.at - batch) / most;
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
  printf("%llu %.6f\n", (unsigned long long)sent, now() - start);
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
  double start = now(), end = start + seconds;
  while (now() < end) {
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

static void trip(Client *c, size_t size, int count, const uint8_t *body) {
  double *took = malloc(count * sizeof *took);
  for (int n = 0; n < count; n++) {
    double start = now();
    one_publish(&c->w, "bench", size, body), flush(c), expect(c, ID(60, 80));
    took[n] = (now() - start) * 1e6;
  }
  qsort(took, count, sizeof *took, by_value);
  for (int n = 0; n < count; n++) printf("%.2f\n", took[n]);
}

static void idle(const char *target, int count) {
  Client *clients = malloc(count * sizeof *clients);
  for (int n = 0; n < count; n++) clients[n] = dial(target);
  printf("ready\n"), fflush(stdout);
  while (getchar() != EOF);
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  if (argc == 3 && !strcmp(argv[1], "broker")) broker(atoi(argv[2]));
  if (argc == 4 && !strcmp(argv[1], "idle")) return idle(argv[2], atoi(argv[3])), 0;
  if (argc < 5) return fputs("see the head of rig.c\n", stderr), 64;
  size_t size = atoi(argv[3]);
  uint8_t *body = calloc(1, size + 1);
  Client c = dial(argv[2]);
  int confirm = !strcmp(argv[1], "trip") || (argc > 5 && atoi(argv[5]));
  if (strcmp(argv[1], "consume")) declare(&c, "bench");
  if (confirm) confirms(&c);
  if (!strcmp(argv[1], "publish")) publish(&c, size, atof(argv[4]), confirm, body);
  if (!strcmp(argv[1], "consume")) consume(&c, size, atof(argv[4]));
  if (!strcmp(argv[1], "trip")) trip(&c, size, atoi(argv[4]), body);
  return 0;
}
