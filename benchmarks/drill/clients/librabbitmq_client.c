/* librabbitmq (rabbitmq-c), as the applications of __init__.py: `librabbitmq ROLE --name ... --broker HOST:PORT ...`. */
#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { HEARTBEAT_S = 10, CONNECT_TIMEOUT_S = 5, UNCONFIRMED_MAX = 500, FINISH_S = 30, CHANNEL = 1, BROKERS_MAX = 8 };
static const long TICK_US = 10000, RECONNECT_PAUSE_US = 50000;

static const char *name = "", *queue = "", *run = "";
static struct { char host[64]; int port; } brokers[BROKERS_MAX];
static int broker_count, rate, prefetch;
static volatile sig_atomic_t stopping;
static long last_number;

/* The number that each open confirm is for; 0 when it has come. Tags follow each other, so a ring will do. */
static long open_numbers[2 * UNCONFIRMED_MAX];
static unsigned long long published_tag, settled_tag;
static int unconfirmed;

static void on_term(int signal) {
  (void)signal;
  stopping = 1;
}

static double now_s(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

/* `detail` is JSON. One write each, so that no line is torn. */
static void tell(const char *kind, long number, const char *detail) {
  char line[512];
  int size = snprintf(line, sizeof line, "[%.6f,\"%s\",%ld,%s]\n", now_s(), kind, number, detail);
  if (write(1, line, (size_t)size) != size) exit(1);
}

static void tell_text(const char *kind, const char *text, size_t size) {
  char quoted[300] = "\"";
  size_t at = 1;
  for (size_t each = 0; each < size && at < sizeof quoted - 3; each++) {
    unsigned char letter = (unsigned char)text[each];
    quoted[at++] = letter < ' ' || letter > '~' || letter == '"' || letter == '\\' ? '\'' : (char)letter;
  }
  quoted[at] = '"';
  tell(kind, 0, quoted);
}

static bool lost(const char *why) {
  tell_text("disconnected", why, strlen(why));
  return false;
}

static bool lost_status(int status) { return lost(amqp_error_string2(status)); }

/* A method that nobody asked for: a close of the channel or the connection, or a consumer's cancellation. */
static bool lost_method(const amqp_method_t *method) {
  amqp_bytes_t text = amqp_cstring_bytes(amqp_method_name(method->id));
  if (method->id == AMQP_CONNECTION_CLOSE_METHOD) text = ((amqp_connection_close_t *)method->decoded)->reply_text;
  if (method->id == AMQP_CHANNEL_CLOSE_METHOD) text = ((amqp_channel_close_t *)method->decoded)->reply_text;
  tell_text("disconnected", text.bytes, text.len);
  return false;
}

static bool answered(amqp_connection_state_t link) {
  amqp_rpc_reply_t reply = amqp_get_rpc_reply(link);
  if (reply.reply_type == AMQP_RESPONSE_NORMAL) return true;
  return reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION ? lost_method(&reply.reply)
                                                           : lost_status(reply.library_error);
}

/* True when something was confirmed or nothing came in time; false when the connection or the channel is gone. */
static bool hear(amqp_connection_state_t link, long wait_us) {
  struct timeval patience = {wait_us / 1000000, wait_us % 1000000};
  amqp_frame_t frame;
  int status = amqp_simple_wait_frame_noblock(link, &frame, &patience);
  if (status == AMQP_STATUS_TIMEOUT) return true;
  if (status != AMQP_STATUS_OK) return lost_status(status);
  if (frame.frame_type != AMQP_FRAME_METHOD) return true;
  amqp_method_t *method = &frame.payload.method;
  if (method->id != AMQP_BASIC_ACK_METHOD && method->id != AMQP_BASIC_NACK_METHOD) return lost_method(method);
  /* Ack and nack begin with the same two fields. */
  amqp_basic_ack_t *ack = method->decoded;
  const char *kind = method->id == AMQP_BASIC_ACK_METHOD ? "confirmed" : "nacked";
  for (unsigned long long tag = ack->multiple ? settled_tag + 1 : ack->delivery_tag; tag <= ack->delivery_tag; tag++) {
    long *number = &open_numbers[tag % (2 * UNCONFIRMED_MAX)];
    if (*number == 0) continue;
    tell(kind, *number, "null");
    *number = 0;
    unconfirmed--;
  }
  while (settled_tag < published_tag && open_numbers[(settled_tag + 1) % (2 * UNCONFIRMED_MAX)] == 0) settled_tag++;
  return true;
}

static bool publish_one(amqp_connection_state_t link, bool confirms) {
  char body[64];
  amqp_basic_properties_t properties = {._flags = AMQP_BASIC_DELIVERY_MODE_FLAG, .delivery_mode = 2};
  snprintf(body, sizeof body, "%s %ld", run, ++last_number);
  if (confirms) {
    open_numbers[++published_tag % (2 * UNCONFIRMED_MAX)] = last_number;
    unconfirmed++;
  }
  tell("published", last_number, "null");
  int status = amqp_basic_publish(link, CHANNEL, amqp_empty_bytes, amqp_cstring_bytes(queue), 0, 0, &properties,
                                  amqp_cstring_bytes(body));
  return status == AMQP_STATUS_OK || lost_status(status);
}

static bool publish(amqp_connection_state_t link, bool confirms) {
  double stop_at_s = 0;
  memset(open_numbers, 0, sizeof open_numbers);
  published_tag = settled_tag = 0;
  unconfirmed = 0;
  if (confirms) {
    amqp_confirm_select(link, CHANNEL);
    if (!answered(link)) return false;
  }
  for (;;) {
    if (stopping && stop_at_s == 0) stop_at_s = now_s() + FINISH_S;
    if (stopping && (unconfirmed == 0 || now_s() > stop_at_s)) return true;
    double tick_s = now_s() + (double)TICK_US / 1e6;
    for (int n = 0; !stopping && n < rate / 100; n++) {
      /* One that waits for long leaves no room in the ring for those behind it. */
      if (published_tag - settled_tag >= UNCONFIRMED_MAX) break;
      if (!publish_one(link, confirms)) return false;
    }
    for (double left_s; (left_s = tick_s - now_s()) > 0;)
      if (!hear(link, (long)(left_s * 1e6))) return false;
    amqp_maybe_release_buffers(link);
  }
}

static bool tell_delivered(const amqp_envelope_t *envelope) {
  char body[64] = "";
  size_t size = envelope->message.body.len;
  size_t prefix = strlen(run);
  if (size >= sizeof body) return false;
  memcpy(body, envelope->message.body.bytes, size);
  if (strncmp(body, run, prefix) != 0 || body[prefix] != ' ') return false;
  tell("delivered", atol(body + prefix + 1), envelope->redelivered ? "true" : "false");
  return true;
}

static bool consume(amqp_connection_state_t link) {
  amqp_basic_qos(link, CHANNEL, 0, (uint16_t)prefetch, 0);
  if (!answered(link)) return false;
  amqp_basic_consume(link, CHANNEL, amqp_cstring_bytes(queue), amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
  if (!answered(link)) return false;
  while (!stopping) {
    struct timeval patience = {0, 500000};
    amqp_envelope_t envelope;
    amqp_maybe_release_buffers(link);
    amqp_rpc_reply_t reply = amqp_consume_message(link, &envelope, &patience, 0);
    if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION && reply.library_error == AMQP_STATUS_TIMEOUT) continue;
    if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION && reply.library_error == AMQP_STATUS_UNEXPECTED_STATE) {
      if (!hear(link, 0)) return false;
      continue;
    }
    if (reply.reply_type != AMQP_RESPONSE_NORMAL) return lost_status(reply.library_error);
    bool ours = tell_delivered(&envelope);
    int status = amqp_basic_ack(link, CHANNEL, envelope.delivery_tag, 0);
    amqp_destroy_envelope(&envelope);
    if (!ours) {
      fprintf(stderr, "a message of another run in the queue of run %s\n", run);
      exit(1);
    }
    if (status != AMQP_STATUS_OK) return lost_status(status);
  }
  return true;
}

static amqp_connection_state_t connect_to(const char *host, int port) {
  amqp_connection_state_t link = amqp_new_connection();
  amqp_socket_t *socket = amqp_tcp_socket_new(link);
  struct timeval patience = {CONNECT_TIMEOUT_S, 0};
  int status = amqp_socket_open_noblock(socket, host, port, &patience);
  amqp_set_handshake_timeout(link, &patience);
  if (status == AMQP_STATUS_OK) {
    amqp_table_entry_t entry = {.key = amqp_cstring_bytes("connection_name"), .value = {.kind = AMQP_FIELD_KIND_UTF8}};
    entry.value.value.bytes = amqp_cstring_bytes(name);
    amqp_table_t properties = {1, &entry};
    amqp_rpc_reply_t reply = amqp_login_with_properties(link, "/", AMQP_DEFAULT_MAX_CHANNELS, AMQP_DEFAULT_FRAME_SIZE,
                                                        HEARTBEAT_S, &properties, AMQP_SASL_METHOD_PLAIN, "guest",
                                                        "guest");
    if (reply.reply_type == AMQP_RESPONSE_NORMAL) return link;
    status = reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION ? AMQP_STATUS_CONNECTION_CLOSED : reply.library_error;
  }
  const char *why = amqp_error_string2(status);
  tell_text("refused", why, strlen(why));
  amqp_destroy_connection(link);
  return NULL;
}

static void serve(const char *role) {
  for (int turn = 0; !stopping; turn++, usleep(RECONNECT_PAUSE_US)) {
    int at = turn % broker_count;
    amqp_connection_state_t link = connect_to(brokers[at].host, brokers[at].port);
    if (link == NULL) continue;
    tell_text("connected", brokers[at].host, strlen(brokers[at].host));
    amqp_channel_open(link, CHANNEL);
    bool well = answered(link);
    if (well && strcmp(role, "consume") == 0)
      well = consume(link);
    else if (well)
      well = publish(link, strcmp(role, "publish") == 0);
    if (well) {
      amqp_connection_close(link, AMQP_REPLY_SUCCESS);
    }
    amqp_destroy_connection(link);
  }
}

int main(int count, char **words) {
  struct sigaction on_signal = {.sa_handler = on_term};
  sigaction(SIGTERM, &on_signal, NULL);
  signal(SIGINT, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);
  for (int at = 2; at + 1 < count; at += 2) {
    const char *key = words[at], *value = words[at + 1];
    if (strcmp(key, "--name") == 0) name = value;
    if (strcmp(key, "--queue") == 0) queue = value;
    if (strcmp(key, "--run") == 0) run = value;
    if (strcmp(key, "--rate") == 0) rate = atoi(value);
    if (strcmp(key, "--prefetch") == 0) prefetch = atoi(value);
    if (strcmp(key, "--broker") == 0 && broker_count < BROKERS_MAX &&
        sscanf(value, "%63[^:]:%d", brokers[broker_count].host, &brokers[broker_count].port) == 2)
      broker_count++;
  }
  if (count < 2 || broker_count == 0) return 64;
  serve(words[1]);
  tell("finished", 0, "null");
  return 0;
}
