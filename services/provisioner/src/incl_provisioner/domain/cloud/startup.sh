#!/bin/bash
# Starts the agent on a machine of a cloud, and ends the machine when the agent has ended for good or never started.
# Nothing is written into this text: every value comes from the metadata server and is checked before it is used.
# Phases go to the guest attribute incl/phase and to the serial console, as "incl-vm: PHASE [detail]".
set -u -o pipefail
umask 077

readonly METADATA="http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1/instance"
readonly ROOT="${INCL_VM_ROOT:-/var/lib/incl}"
readonly TRIES="${INCL_VM_TRIES:-30}"
readonly CRASHES="${INCL_VM_CRASHES:-10}"
agent_pid=""

ask() { # PATH: what the metadata server says; nothing when there is none
  curl -sS -f -m 10 -H 'Metadata-Flavor: Google' "$METADATA/$1" 2>/dev/null
}

say() { # PHASE [DETAIL]: what a startup script prints goes to the serial console; best effort, never in the way
  printf 'incl-vm: %s\n' "$1${2:+ $2}"
  curl -sS -f -m 5 -X PUT -H 'Metadata-Flavor: Google' --data-binary "$1${2:+ $2}" \
    "$METADATA/guest-attributes/incl/phase" >/dev/null 2>&1 || true
}

finish() { # REASON: the end of the machine; the provider's own deadline and the platform are the other two
  trap - EXIT TERM INT
  if [[ -n "$agent_pid" ]] && kill -0 "$agent_pid" 2>/dev/null; then
    kill -TERM "$agent_pid" 2>/dev/null
    wait "$agent_pid"
  fi
  rm -f -- "$ROOT/token"
  say "off" "$1"
  sync
  poweroff || shutdown -h now
  exit 0
}

fail() { # PHASE DETAIL
  say "failed" "$1: $2"
  finish "$1"
}

reach() { # until the metadata server answers
  local try
  for ((try = 1; try <= TRIES; try++)); do
    if ask id >/dev/null; then
      return 0
    fi
    sleep $((try < 5 ? try : 5))
  done
  return 1
}

need() { # NAME PATTERN: the checked value of an attribute, in the variable `value`
  value="$(ask "attributes/$1")" || value="$(ask "attributes/$1")" || value=""
  if [[ -z "$value" || ! "$value" =~ ^$2$ ]]; then
    fail "metadata" "the attribute $1 is missing or not what it must be"
  fi
}

fetch() { # URL FILE SHA256
  local try
  for ((try = 1; try <= TRIES; try++)); do
    if curl -sS -f -L -m 600 --connect-timeout 10 -o "$2.part" -- "$1" 2>"$ROOT/fetch.err"; then
      if printf '%s  %s\n' "$3" "$2.part" | sha256sum -c --status -; then
        mv -f -- "$2.part" "$2"
        return 0
      fi
      echo "its sha256 is not the one that was given" >"$ROOT/fetch.err"
    fi
    say "fetching" "try $try of $TRIES: $(tail -c 200 "$ROOT/fetch.err" | tr -c '[:print:]' ' ')"
    sleep $((try < 10 ? try : 10))
  done
  return 1
}

trap 'finish "the startup script ended"' EXIT
trap 'finish "told to end"' TERM INT

mkdir -p -- "$ROOT" || fail "disk" "cannot write to $ROOT"
cd -- "$ROOT" || fail "disk" "cannot enter $ROOT"
reach || fail "network" "the metadata server does not answer"
say "booted"

readonly WEB='https?://[A-Za-z0-9._:/?&=%~+,@-]+'
node="$(ask name)" || node="$(ask name)" || node=""
[[ "$node" =~ ^[a-z][a-z0-9-]{0,62}$ ]] || fail "metadata" "the machine does not know its name"
need incl-agent-url "$WEB"
agent_url="$value"
need incl-agent-sha256 '[0-9a-f]{64}'
agent_sha256="$value"
need incl-enroll-url "$WEB"
enroll_url="$value"
need incl-bus '(nats|tls|ws|wss)://[A-Za-z0-9._:,/-]+'
bus="$value"
need incl-enroll-token '[A-Za-z0-9._~+/=-]{16,4096}'
printf '%s' "$value" >"$ROOT/token"
value=""

say "fetching"
if [[ ! -x "$ROOT/agent/bin/incl-agent-vm" ]]; then
  fetch "$agent_url" "$ROOT/agent.tar.gz" "$agent_sha256" || fail "fetching" "the agent could not be fetched"
  say "installing"
  mkdir -p -- "$ROOT/agent.new"
  tar -xzf "$ROOT/agent.tar.gz" -C "$ROOT/agent.new" --no-same-owner --no-same-permissions ||
    fail "installing" "the archive of the agent cannot be unpacked"
  rm -rf -- "$ROOT/agent"
  mv -- "$ROOT/agent.new" "$ROOT/agent"
  [[ -x "$ROOT/agent/bin/incl-agent-vm" ]] || fail "installing" "the archive has no bin/incl-agent-vm"
fi

# The agent trades the token, which is good for one use, for credentials of its own, and deletes the file. Its end with 0
# is the end of the machine; 78 says that it may never begin. After any other end it is started again: jobs outlive it.
say "starting"
export INCL_VM_TOKEN_FILE="$ROOT/token" INCL_VM_ENROLL_URL="$enroll_url" INCL_AGENT_NODE="$node"
export INCL_AGENT_BUS__URLS="[\"${bus//,/\",\"}\"]" INCL_AGENT_DATA_DIR="$ROOT/data"
crashes=0
while :; do
  began=$SECONDS
  "$ROOT/agent/bin/incl-agent-vm" &
  agent_pid=$!
  say "started"
  wait "$agent_pid"
  code=$?
  agent_pid=""
  if ((code == 0)); then
    finish "the agent has ended"
  elif ((code == 78)); then
    fail "enroll" "the platform refused this machine"
  fi
  if ((SECONDS - began > 600)); then
    crashes=0
  fi
  crashes=$((crashes + 1))
  if ((crashes >= CRASHES)); then
    fail "agent" "it ended $crashes times, the last with exit code $code"
  fi
  say "restarting" "the agent ended with exit code $code"
  sleep $((crashes < 5 ? crashes : 5))
done
