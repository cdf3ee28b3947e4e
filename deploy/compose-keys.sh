#!/bin/sh
# Makes the secrets of deploy/compose.yaml, once: what is there stays, since tools' secrets are sealed with it.
set -eu
umask 077
cd "$(dirname "$0")"

word() { # of so many letters and digits
  LC_ALL=C tr -dc 0-9A-Za-z < /dev/urandom | head -c "$1"
}

if [ ! -e .env ]; then
  cat > .env.new << END
INTERLOCK_BOOTSTRAP_KEY=once_live_$(word 43)
INTERLOCK_SIDECAR_TOKEN=$(word 43)
INTERLOCK_MASTER_KEY=$(word 8):$(head -c 32 /dev/urandom | base64)
TOOL_SECRET=$(word 43)
GRAFANA_PASSWORD=$(word 20)
END
  mv .env.new .env
fi

if [ ! -e keys/audit.key ]; then
  mkdir -p keys
  # An Ed25519 key as PKCS #8 (RFC 8410): what goes before the 32 bytes is always the same.
  {
    echo '-----BEGIN PRIVATE KEY-----'
    { printf '\060\056\002\001\000\060\005\006\003\053\145\160\004\042\004\040'; head -c 32 /dev/urandom; } | base64
    echo '-----END PRIVATE KEY-----'
  } > keys/audit.key.new
  chmod 0644 keys/audit.key.new # for the container's user; nobody else gets into the folder
  mv keys/audit.key.new keys/audit.key
fi
