/* load: clients that cost nothing, for the throughput benchmark.
 *
 *   load publish HOST:PORT SIZE SECONDS CONFIRM   publish as fast as it goes; CONFIRM 1: with confirms, window below
 *   load consume HOST:PORT SIZE SECONDS           consume a flood, acknowledge every delivery by itself
 *   load trip    HOST:PORT SIZE COUNT             one confirmed publish after the other
 *   load idle    HOST:PORT COUNT                  open sessions with one channel each, hold them until stdin ends
 *
 * publish and consume print "messages seconds"; trip prints its times in microseconds, sorted, one a line.
 * Against a real broker the queue is a transient classic one that keeps its newest 1000 messages. */
#include <poll.h>

#include "wire.h"

/* Unsettled publishes in flight: what a busy publisher allows itself. Bytes bound the large ones. */
enum { WINDOW_MESSAGES = 2000, WINDOW_BYTES = 8 << 20 };

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
  if (argc == 4 && !strcmp(argv[1], "idle")) return idle(argv[2], atoi(argv[3])), 0;
  if (argc < 5) return fputs("see the head of load.c\n", stderr), 64;
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
