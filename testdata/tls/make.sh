#!/bin/sh
# Makes the certificates for tests anew, with other keys: needs openssl.
set -eu
cd "$(dirname "$0")"
here=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat >config <<END
[ca]
default_ca = own
[own]
database = $work/database
new_certs_dir = $work
default_md = sha256
rand_serial = yes
policy = any
[any]
commonName = supplied
[leaf]
basicConstraints = critical, CA:FALSE
subjectAltName = DNS:registry.test, DNS:localhost, IP:127.0.0.1
END
: >database
for name in registry other; do
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" -keyout "$name.key" -out "$name.csr"
    # From long ago, for machines whose clock is slow.
    openssl ca -batch -selfsign -config config -notext -extensions leaf -keyfile "$name.key" -in "$name.csr" \
        -startdate 20200101000000Z -enddate 21200101000000Z -out "$name.pem"
done 2>/dev/null
# Nobody shows the other one; it is an authority that did not sign the first.
cp registry.pem registry.key other.pem "$here"
