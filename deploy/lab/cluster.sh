#!/usr/bin/env bash
# cluster.sh - a disposable RabbitMQ cluster on loopback, to be started, hurt and thrown away.
#
# Usage: cluster.sh COMMAND [ARGUMENT...]
#
#   start [N...]         boot nodes (default: all), form the cluster, wait until they speak AMQP; idempotent
#   stop [N...]          SIGTERM, so clients are told 320; SIGKILL after STOP_TIMEOUT
#   kill9 [N...]         SIGKILL
#   restart [N...]       stop, then start
#   pause N... resume N...   SIGSTOP and SIGCONT: a hung node
#   status               one line per node: name, pid, memory, ports, state
#   pid N                process id of a node; fails when it is down
#   ctl N ARG...         rabbitmqctl against node N; also: diag, queues, upgrade, plugins
#   eval N EXPRESSION    run Erlang on node N
#   partition A B        cut the Erlang link between two nodes (each refuses the other's cookie); heal A B
#   reset [N]            drop and add the vhost /: queues, exchanges, policies are gone, users stay
#   env                  ports and log files as KEY=VALUE
#   wipe                 kill all nodes and the port mapper, delete all state
#
# One cluster per CLUSTER_DIR and CLUSTER_PORT_BASE, so several run side by side. Runs as any user, root included:
# the start scripts of the package are used directly, not the distribution's wrappers that switch the user.
#
# Environment:
#   CLUSTER_DIR          state folder (required)
#   CLUSTER_PORT_BASE    25600; +0 epmd, +1..+9 not used, +10+N AMQP, +20+N HTTP, +30+N Erlang distribution, +40..+99 command line tools
#   CLUSTER_NODES        3
#   CLUSTER_NODE_PREFIX  mq; the nodes are mq1@localhost, mq2@localhost, ...
#   CLUSTER_PLUGINS      rabbitmq_management
#   CLUSTER_PARTITION    ignore | pause_minority | autoheal
#   CLUSTER_TICKTIME     8; seconds. A node paused for longer stays partitioned in mode ignore until it is restarted
#   CLUSTER_EXTRA_CONF   text appended to rabbitmq.conf
#   BOOT_TIMEOUT         120 seconds per node;  STOP_TIMEOUT  20 seconds
#   RABBITMQ_HOME        folder that holds sbin/rabbitmq-server, if it is not where Debian and Ubuntu put it
#   RABBITMQ_ROOT        folder made by rabbitmq4.sh: RabbitMQ and Erlang are taken from there
set -u

DIR=${CLUSTER_DIR:?set CLUSTER_DIR to the folder that holds the state of the cluster}
BASE=${CLUSTER_PORT_BASE:-25600}
NODES=${CLUSTER_NODES:-3}
PREFIX=${CLUSTER_NODE_PREFIX:-mq}
PLUGINS=${CLUSTER_PLUGINS-rabbitmq_management}
PARTITION=${CLUSTER_PARTITION:-ignore}
TICKTIME=${CLUSTER_TICKTIME:-8}
EXTRA_CONF=${CLUSTER_EXTRA_CONF:-}
BOOT_TIMEOUT=${BOOT_TIMEOUT:-120}
STOP_TIMEOUT=${STOP_TIMEOUT:-20}
# Everything listens on loopback only; the cookie keeps clusters apart, it is no secret.
COOKIE=SIDEHOPLAB

say() { echo "$*" >&2; }
die() { say "cluster: $*"; exit 1; }

find_home() {
  local found root=''
  if [ -n "${RABBITMQ_ROOT:-}" ]; then
    root=$(realpath -m "$RABBITMQ_ROOT")
    [ -d "$root/usr/lib/rabbitmq" ] || die "no RabbitMQ in RABBITMQ_ROOT=$root; run deploy/lab/rabbitmq4.sh '$root'"
    PATH=$root/usr/lib/erlang/bin:$PATH
    unset RABBITMQ_HOME
  fi
  found=$(find "$root/usr/lib/rabbitmq/lib" -maxdepth 1 -name 'rabbitmq_server-*' 2>/dev/null | sort -V | tail -1)
  HOME_DIR=${RABBITMQ_HOME:-$found}
  [ -x "$HOME_DIR/sbin/rabbitmq-server" ] ||
    die "no RabbitMQ found; install it (apt-get install rabbitmq-server) or set RABBITMQ_HOME"
  MAJOR=$(basename "$HOME_DIR" | sed -n 's/^rabbitmq_server-\([0-9]*\).*/\1/p')
  MAJOR=${MAJOR:-3}
  unset RABBITMQ_HOME # the scripts would read it as their own setting
}

name() { echo "$PREFIX$1@localhost"; }
amqp_port() { echo $((BASE + 10 + $1)); }
http_port() { echo $((BASE + 20 + $1)); }
dist_port() { echo $((BASE + 30 + $1)); }
mapfile -t ALL < <(seq 1 "$NODES")

# Seconds since the epoch with one digit after the point, as tenths: bash has no fractions.
tenths() { echo $((${EPOCHREALTIME/./} / 100000)); }

# The recorded pid, but only while it is still our node: pids are used again.
pid() {
  local p
  p=$(cat "$DIR/$1/beam.pid" 2>/dev/null) && [ -n "$p" ] || return 1
  [ "$(readlink "/proc/$p/cwd" 2>/dev/null)" = "$(readlink -f "$DIR/$1")" ] || return 1
  ! grep -q '^State:[[:space:]]*Z' "/proc/$p/status" 2>/dev/null || return 1
  echo "$p"
}

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A booting, draining or paused node accepts TCP and does not answer, so "up" means: it answers the protocol header.
speaks_amqp() {
  (
    exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
    printf 'AMQP\0\0\11\1' >&3
    IFS= read -r -t 2 -n 1 -d '' first <&3
    [ "$first" = $'\x01' ]
  ) 2>/dev/null
}

common_env() {
  export HOME="$DIR" LANG=C.UTF-8 ERL_EPMD_PORT=$BASE ERL_EPMD_ADDRESS=127.0.0.1
  # A file of the user's own RabbitMQ must not leak into ours.
  export RABBITMQ_CONF_ENV_FILE=/dev/null RABBITMQ_ADVANCED_CONFIG_FILE="$DIR/no-advanced"
  export RABBITMQ_CTL_DIST_PORT_MIN=$((BASE + 40)) RABBITMQ_CTL_DIST_PORT_MAX=$((BASE + 99))
  export RABBITMQ_CTL_ERL_ARGS="+S 1:1 +sbwt none -setcookie $COOKIE -kernel inet_dist_use_interface {127,0,0,1}"
}

node_env() {
  common_env
  export RABBITMQ_ENABLED_PLUGINS_FILE="$DIR/$1/enabled_plugins"
}

# Our own port mapper, on its own port. It outlives single nodes, and goes with the last one.
start_epmd() {
  mkdir -p "$DIR"
  if [ ! -s "$DIR/.erlang.cookie" ]; then
    printf %s "$COOKIE" >"$DIR/.erlang.cookie"
    chmod 400 "$DIR/.erlang.cookie"
  fi
  listening "$BASE" && return 0
  (
    common_env
    cd "$DIR" || exit 1
    setsid epmd -port "$BASE" -address 127.0.0.1 >/dev/null 2>&1 </dev/null &
    echo $! >"$DIR/epmd.pid"
  )
  for _ in $(seq 50); do
    listening "$BASE" && return 0
    sleep .05
  done
  die "epmd did not start on port $BASE"
}

write_conf() {
  local n=$1 folder="$DIR/$1" i
  mkdir -p "$folder/mnesia" "$folder/log"
  {
    echo "listeners.tcp.1 = 127.0.0.1:$(amqp_port "$n")"
    echo "loopback_users = none"
    echo "cluster_partition_handling = $PARTITION"
    echo "cluster_formation.peer_discovery_backend = classic_config"
    for i in "${ALL[@]}"; do echo "cluster_formation.classic_config.nodes.$i = $(name "$i")"; done
    if [ "$MAJOR" -lt 4 ]; then # a 4.x node refuses to boot with these
      echo "cluster_formation.randomized_startup_delay_range.min = 0"
      echo "cluster_formation.randomized_startup_delay_range.max = 0"
      echo "mnesia_table_loading_retry_timeout = 5000"
      echo "mnesia_table_loading_retry_limit = 12"
    fi
    echo "net_ticktime = $TICKTIME"
    echo "disk_free_limit.absolute = 10MB"
    echo "raft.wal_max_size_bytes = 16777216"
    echo "log.file.level = info"
    case ",$PLUGINS," in
      *management*)
        echo "management.tcp.ip = 127.0.0.1"
        echo "management.tcp.port = $(http_port "$n")"
        ;;
    esac
    printf '%s\n' "$EXTRA_CONF"
  } >"$folder/rabbitmq.conf"
  echo "[$PLUGINS]." >"$folder/enabled_plugins"
}

launch() {
  local n=$1 folder="$DIR/$1" p
  pid "$n" >/dev/null && return 0
  listening "$(amqp_port "$n")" && die "port $(amqp_port "$n") is taken by another program; set another port base"
  write_conf "$n"
  say "$PREFIX$n booting ..."
  (
    node_env "$n"
    RABBITMQ_NODENAME=$(name "$n")
    RABBITMQ_DIST_PORT=$(dist_port "$n")
    RABBITMQ_NODE_PORT=$(amqp_port "$n")
    export RABBITMQ_NODENAME RABBITMQ_DIST_PORT RABBITMQ_NODE_PORT
    export RABBITMQ_CONFIG_FILE="$folder/rabbitmq.conf"
    export RABBITMQ_MNESIA_BASE="$folder/mnesia" RABBITMQ_LOG_BASE="$folder/log" RABBITMQ_PID_FILE="$folder/rabbit.pid"
    export RABBITMQ_MAX_NUMBER_OF_PROCESSES=65536 ERL_MAX_PORTS=8192 ERL_MAX_ETS_TABLES=5000
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+S 1:1 +SDcpu 1:1 +SDio 2 +A 2 -setcookie $COOKIE"
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS+=" -kernel inet_dist_use_interface {127,0,0,1}"
    export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS
    export detached=1 # the script then execs the Erlang VM, so that $! below is the node itself
    cd "$folder" && exec setsid "$HOME_DIR/sbin/rabbitmq-server" >>"$folder/stdout.log" 2>&1 </dev/null
  ) &
  p=$!
  # Until the child has changed its folder, pid() would not know it as ours.
  for _ in $(seq 100); do
    [ "$(readlink "/proc/$p/cwd" 2>/dev/null)" = "$(readlink -f "$folder")" ] && break
    sleep .01
  done
  echo $p >"$folder/beam.pid"
  disown $p 2>/dev/null || true
}

wait_up() {
  local n=$1 started=$2 again=1 passed last
  last=$((($(tenths) - started) / 50))
  until speaks_amqp "$(amqp_port "$n")"; do
    passed=$((($(tenths) - started) / 10))
    if ! pid "$n" >/dev/null; then
      # Once: it may have been about to end when we looked before launching it.
      if [ $again = 1 ]; then
        again=0
        launch "$n"
      else
        tail -5 "$DIR/$n/stdout.log" >&2
        say "$PREFIX$n died while booting; see $DIR/$n/stdout.log and $DIR/$n/log"
        return 1
      fi
    elif [ $passed -ge "$BOOT_TIMEOUT" ]; then
      say "$PREFIX$n is not up after $BOOT_TIMEOUT s; see $DIR/$n/log"
      return 1
    elif [ $((passed / 5)) -gt $last ]; then
      last=$((passed / 5))
      say "$PREFIX$n still booting ($passed s)"
    fi
    sleep .1
  done
  passed=$(($(tenths) - started))
  say "$PREFIX$n up on 127.0.0.1:$(amqp_port "$n") ($((passed / 10)).$((passed % 10)) s)"
}

start_together() {
  local n started failed=0 booting=()
  started=$(tenths)
  for n in "$@"; do
    pid "$n" >/dev/null && speaks_amqp "$(amqp_port "$n")" && continue
    launch "$n"
    booting+=("$n")
  done
  for n in "${booting[@]}"; do wait_up "$n" "$started" || failed=1; done
  return $failed
}

is_formed() { find "$DIR"/*/mnesia -mindepth 1 2>/dev/null | grep -q .; }

do_start() {
  start_epmd
  # The first boot of 3.x needs a seed that the others join; afterwards, and in 4.x, they boot together.
  if [ "$MAJOR" -lt 4 ] && ! is_formed; then
    start_together 1 || return 1
    [ "$*" = 1 ] || start_together "${ALL[@]}"
  else
    start_together "$@"
  fi
}

do_stop() {
  local n p waited
  for n in "$@"; do
    p=$(pid "$n") && kill -CONT "$p" && kill -TERM "$p" && say "$PREFIX$n stopping ..."
  done
  for n in "$@"; do
    waited=0
    while p=$(pid "$n"); do
      [ $((waited += 1)) -gt $((STOP_TIMEOUT * 10)) ] && kill -9 "$p"
      sleep .1
    done
    rm -f "$DIR/$n/beam.pid"
  done
  stop_epmd
}

stop_epmd() {
  local n p
  for n in "${ALL[@]}"; do pid "$n" >/dev/null && return 0; done
  if p=$(cat "$DIR/epmd.pid" 2>/dev/null) && [ "$(cat "/proc/$p/comm" 2>/dev/null)" = epmd ]; then kill "$p"; fi
  rm -f "$DIR/epmd.pid"
}

do_kill9() {
  local n p
  for n in "$@"; do
    p=$(pid "$n") && kill -9 "$p"
    while pid "$n" >/dev/null; do sleep .02; done
    rm -f "$DIR/$n/beam.pid"
  done
}

do_signal() {
  local signal=$1 n p
  shift
  for n in "$@"; do
    p=$(pid "$n") || die "$PREFIX$n is down"
    kill "-$signal" "$p"
  done
}

do_status() {
  local n p state memory
  for n in "${ALL[@]}"; do
    if ! p=$(pid "$n"); then
      echo "$PREFIX$n down"
      continue
    fi
    memory=$(awk '/VmRSS/ {print int($2 / 1024)}' "/proc/$p/status")
    if grep -q '^State:[[:space:]]*T' "/proc/$p/status"; then
      state=paused
    elif speaks_amqp "$(amqp_port "$n")"; then
      state=up
    else
      state='booting or stopping'
    fi
    echo "$PREFIX$n $state pid=$p rss=${memory}MiB amqp=127.0.0.1:$(amqp_port "$n") http=127.0.0.1:$(http_port "$n")"
  done
}

do_tool() {
  local tool=$1 n=$2
  shift 2
  (
    node_env "$n"
    cd "$DIR" && exec "$HOME_DIR/sbin/$tool" -n "$(name "$n")" "$@"
  )
}

do_eval() { do_tool rabbitmqctl "$1" eval "$2"; }

# Two different wrong cookies: with the same one on both sides they would shake hands again.
do_partition() {
  local a b
  a=$(name "$1") b=$(name "$2")
  do_eval "$1" "erlang:set_cookie('$b', cut_by_$1), erlang:disconnect_node('$b')." >/dev/null &
  do_eval "$2" "erlang:set_cookie('$a', cut_by_$2), erlang:disconnect_node('$a')." >/dev/null
  wait
}

do_heal() {
  local a b
  a=$(name "$1") b=$(name "$2")
  do_eval "$1" "erlang:set_cookie('$b', '$COOKIE')." >/dev/null &
  do_eval "$2" "erlang:set_cookie('$a', '$COOKIE'), net_adm:ping('$a')." >/dev/null
  wait
}

do_reset() {
  do_tool rabbitmqctl "$1" -s delete_vhost / &&
    do_tool rabbitmqctl "$1" -s add_vhost / &&
    do_tool rabbitmqctl "$1" -s set_permissions -p / guest '.*' '.*' '.*'
}

do_env() {
  local n
  echo "CLUSTER_DIR=$DIR"
  for n in "${ALL[@]}"; do
    echo "NODE$n=$(name "$n")"
    echo "AMQP$n=127.0.0.1:$(amqp_port "$n")"
    echo "HTTP$n=127.0.0.1:$(http_port "$n")"
    echo "LOG$n=$DIR/$n/log/$(name "$n").log"
  done
}

do_wipe() {
  do_kill9 "${ALL[@]}"
  stop_epmd
  rm -rf "$DIR"
}

# Without a node number, start, stop, kill9 and restart mean every node.
main() {
  local command=${1:-help}
  [ $# -gt 0 ] && shift
  case $command in
    start | stop | kill9 | restart) [ $# -gt 0 ] || set -- "${ALL[@]}" ;;
  esac
  case $command in
    start) find_home && do_start "$@" ;;
    stop) do_stop "$@" ;;
    kill9) do_kill9 "$@" ;;
    restart) find_home && do_stop "$@" && do_start "$@" ;;
    pause) do_signal STOP "$@" ;;
    resume) do_signal CONT "$@" ;;
    status) do_status ;;
    pid) pid "$1" ;;
    ctl) find_home && do_tool rabbitmqctl "$@" ;;
    diag) find_home && do_tool rabbitmq-diagnostics "$@" ;;
    queues) find_home && do_tool rabbitmq-queues "$@" ;;
    upgrade) find_home && do_tool rabbitmq-upgrade "$@" ;;
    plugins) find_home && do_tool rabbitmq-plugins "$@" ;;
    eval) find_home && do_eval "$@" ;;
    partition) find_home && do_partition "$@" ;;
    heal) find_home && do_heal "$@" ;;
    reset) find_home && do_reset "${1:-1}" ;;
    env) do_env ;;
    wipe) do_wipe ;;
    *)
      sed -n '2,/^set -u/p' "$0" | sed -n 's/^# \{0,1\}//p'
      [ "$command" = help ] || exit 64
      ;;
  esac
}

main "$@"
