/* AMQP 0-9-1 frames, as far as the two ends of the throughput benchmark need them: written into a buffer, read in
 * place, nothing allocated per message. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
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

static inline double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static inline void fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, errno ? strerror(errno) : "unexpected answer");
  exit(1);
}

typedef struct {
  uint8_t *at;
} Writer;

static inline void u8(Writer *w, uint8_t v) { *w->at++ = v; }
static inline void u16(Writer *w, uint16_t v) { u8(w, v >> 8), u8(w, v); }
static inline void u32(Writer *w, uint32_t v) { u16(w, v >> 16), u16(w, v); }
static inline void u64(Writer *w, uint64_t v) { u32(w, v >> 32), u32(w, v); }
static inline void raw(Writer *w, const void *bytes, size_t n) { memcpy(w->at, bytes, n), w->at += n; }
static inline void shortstr(Writer *w, const char *s) { u8(w, strlen(s)), raw(w, s, strlen(s)); }

static inline uint16_t get16(const uint8_t *p) { return p[0] << 8 | p[1]; }
static inline uint32_t get32(const uint8_t *p) { return (uint32_t)get16(p) << 16 | get16(p + 2); }
static inline uint64_t get64(const uint8_t *p) { return (uint64_t)get32(p) << 32 | get32(p + 4); }

/* Begin a frame; end_frame fills in its size. */
static inline uint8_t *begin_frame(Writer *w, uint8_t type, uint16_t channel) {
  u8(w, type), u16(w, channel), u32(w, 0);
  return w->at;
}
static inline void end_frame(Writer *w, uint8_t *payload) {
  Writer size = {payload - 4};
  u32(&size, w->at - payload);
  u8(w, 0xCE);
}
static inline uint8_t *begin_method(Writer *w, uint16_t channel, uint32_t id) {
  uint8_t *payload = begin_frame(w, METHOD, channel);
  u32(w, id);
  return payload;
}

/* The content of a message: a header frame and as many body frames as it takes. */
static inline void content(Writer *w, uint16_t channel, size_t size, const uint8_t *body) {
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

static inline int send_all(int fd, const uint8_t *bytes, size_t n) {
  while (n) {
    ssize_t done = send(fd, bytes, n, MSG_NOSIGNAL);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return -1;
    bytes += done, n -= done;
  }
  return 0;
}
static inline int send_written(int fd, uint8_t *start, Writer *w) {
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

static inline Reader reader(int fd) { return (Reader){fd, malloc(READ_MAX), 0, 0}; }

static inline int buffered(Reader *r, Frame *f) {
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
static inline int fill(Reader *r) {
  memmove(r->buffer, r->buffer + r->start, r->stop - r->start);
  r->stop -= r->start, r->start = 0;
  ssize_t got;
  do got = recv(r->fd, r->buffer + r->stop, READ_MAX - r->stop, 0);
  while (got < 0 && errno == EINTR);
  if (got <= 0) return -1;
  r->stop += got;
  return 0;
}
