"""A registry of Debian's on the loopback interface: what restow puts there others fetch, and the other way round."""

import hashlib
import json
import secrets
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from command import require, run

CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {directory}/data}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}", secret: {secret}{tls}}}
{auth}
"""


@contextmanager
def registry(directory, certificate=None, login=None):
    """Runs docker-registry until the block ends; yields its host and port."""
    directory.mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tls = auth = ""
    if certificate:
        tls = f", tls: {{certificate: {certificate}.pem, key: {certificate}.key}}"
    if login:
        # bcrypt is all that it takes.
        (directory / "htpasswd").write_text(run("htpasswd", "-nbB", *login).stdout)
        auth = f"auth: {{htpasswd: {{realm: test, path: {directory}/htpasswd}}}}"
    config = directory / "config.yml"
    config.write_text(CONFIG.format(directory=directory, port=port, secret=secrets.token_hex(8), tls=tls, auth=auth))
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", config], stdout=log, stderr=log)
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                require(process.poll() is None, (directory / "log").read_text())
                time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def manifest(host, name, reference):
    """A manifest's bytes, as they lie in the registry."""
    types = [f"application/vnd.{kind}+json" for kind in (
        "oci.image.index.v1", "oci.image.manifest.v1", "docker.distribution.manifest.v2",
        "docker.distribution.manifest.list.v2")]
    request = urllib.request.Request(f"http://{host}/v2/{name}/manifests/{reference}", headers={"Accept": ", ".join(types)})
    with urllib.request.urlopen(request) as answer:
        return answer.read()


def digest(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def plain(restow, work, references, daemon, report):
    with registry(work / "registry") as host:
        for name, reference in references.items():
            directory, _, tag = reference.partition(":")
            index = json.loads(Path(directory, "index.json").read_text())["manifests"]
            root = next(one["digest"] for one in index
                        if one.get("annotations", {}).get("org.opencontainers.image.ref.name") == tag)
            with report.check(f"registry: {name} put by restow is the source, byte for byte"):
                printed = run(restow, "copy", "--all-platforms", "--progress", "none", reference, f"docker://{host}/{name}:restow")
                require(printed.stdout.strip() == root, f"printed {printed.stdout}")
                require(digest(manifest(host, name, "restow")) == root, "the registry holds another manifest")
            with report.check(f"registry: {name} put by restow is fetched by skopeo"):
                run("skopeo", "copy", "--quiet", "--all", "--preserve-digests", "--src-tls-verify=false",
                    f"docker://{host}/{name}:restow", f"dir:{work}/by-skopeo-{name}")
            with report.check(f"registry: {name} put by skopeo is fetched by restow"):
                run("skopeo", "copy", "--quiet", "--all", "--preserve-digests", "--dest-tls-verify=false",
                    f"docker://{host}/{name}:restow", f"docker://{host}/other/{name}:skopeo", "--src-tls-verify=false")
                require(digest(manifest(host, f"other/{name}", "skopeo")) == root, "skopeo changed it")
                run(restow, "copy", "--all-platforms", "--progress", "none", f"docker://{host}/other/{name}:skopeo",
                    f"{work}/by-restow:{name}")
                run(restow, "verify", f"{work}/by-restow:{name}")
            with report.check(f"registry: {name} converted there is what is converted on disk"):
                options = ["--zstdchunked", "--all-platforms", "--progress", "none", "--no-cache"]
                there = run(restow, "optimize", f"docker://{host}/{name}:restow", f"docker://{host}/{name}:lazy", *options)
                here = run(restow, "optimize", reference, f"{work}/here:{name}", *options)
                require(there.stdout == here.stdout, f"{there.stdout} there, {here.stdout} here")
                run(restow, "verify", f"docker://{host}/{name}:lazy")
        name = next(iter(references))
        with report.check("registry: a second push of the same is a look"):
            told = subprocess.run([restow, "copy", "--all-platforms", "--registry-stats", references[name],
                                   f"docker://{host}/{name}:restow"], check=True, capture_output=True, text=True).stderr
            require("1 requests to registries" in told, told)
        with report.check("registry: containerd pulls what restow converted"):
            daemon.ctr("images", "pull", "--plain-http", f"{host}/{name}:lazy")
        with report.check("registry: docker archives are what skopeo takes and makes"):
            archive = work / "saved.tar"
            run(restow, "copy", "--platform", "linux/amd64", "--progress", "none", f"docker://{host}/{name}:restow",
                f"docker-archive:{archive}:example.org/{name}:v1")
            run("skopeo", "inspect", f"docker-archive:{archive}:example.org/{name}:v1")
            made = work / "made.tar"
            run("skopeo", "copy", "--quiet", "--src-tls-verify=false", "--override-os", "linux", "--override-arch",
                "amd64", f"docker://{host}/{name}:restow", f"docker-archive:{made}:example.org/{name}:v2")
            run(restow, "verify", f"docker-archive:{made}:example.org/{name}:v2")


def guarded(restow, work, reference, report):
    """By TLS with an authority of our own, behind a password."""
    certificate = work / "localhost"
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
        "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", f"{certificate}.key", "-out", f"{certificate}.pem")
    login = ("somebody", secrets.token_hex(8))
    with registry(work / "guarded", certificate, login) as host:
        logins = work / "auth.json"
        logins.write_text(json.dumps({"auths": {host: {"username": login[0], "password": login[1]}}}))
        place = f"docker://{host}/guarded:v1"
        trust, known = ["--ca-file", f"{certificate}.pem"], ["--authfile", logins]
        with report.check("registry: by TLS and with a password, both ways"):
            run(restow, "copy", "--all-platforms", "--progress", "none", *trust, *known, reference, place)
            run(restow, "verify", *trust, *known, place)
        with report.check("registry: not without the password, nor without the authority"):
            for options in (trust, known):
                done = subprocess.run([restow, "inspect", *options, place], capture_output=True, text=True)
                require(done.returncode == 1 and login[1] not in done.stderr, done.stderr)


def judge(restow, work, references, daemon, report):
    work.mkdir()
    plain(restow, work, references, daemon, report)
    guarded(restow, work, next(iter(references.values())), report)
