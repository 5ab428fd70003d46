"""Registries on the loopback interface: what restow puts there others fetch, and the other way round."""

import json
import re
import secrets
import subprocess
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import clients
import daemon as daemons
from clients import digest, only_entry
from command import Failure, require, run
from podman import Store

CONFIG = """\
version: 0.1
log: {{accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {directory}/data}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:0", secret: {secret}{tls}}}
{auth}
"""


@contextmanager
def registry(directory, certificate=None, login=None):
    """Runs docker-registry until the block ends; yields its host and port."""
    directory.mkdir(parents=True)
    tls = auth = ""
    if certificate:
        tls = f", tls: {{certificate: {certificate}.pem, key: {certificate}.key}}"
    if login:
        # bcrypt is all that it takes.
        (directory / "htpasswd").write_text(run("htpasswd", "-nbB", *login).stdout)
        auth = f"auth: {{htpasswd: {{realm: test, path: {directory}/htpasswd}}}}"
    config = directory / "config.yml"
    config.write_text(CONFIG.format(directory=directory, secret=secrets.token_hex(8), tls=tls, auth=auth))
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen([*daemons.OURS, "docker-registry", "serve", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        while not (found := re.search(r"listening on (127\.0\.0\.1:\d+)", words := (directory / "log").read_text())):
            require(process.poll() is None, words)
            time.sleep(0.05)
        yield found[1]
    finally:
        process.terminate()
        process.wait()


# podman pulls no image that names a path twice in a layer.
TWICE_NAMED = ("awkward",)


def manifest(host, name, reference):
    """A manifest's bytes, as they lie in the registry."""
    types = [f"application/vnd.{kind}+json" for kind in (
        "oci.image.index.v1", "oci.image.manifest.v1", "docker.distribution.manifest.v2",
        "docker.distribution.manifest.list.v2")]
    request = urllib.request.Request(f"http://{host}/v2/{name}/manifests/{reference}", headers={"Accept": ", ".join(types)})
    with urllib.request.urlopen(request) as answer:
        return answer.read()


@contextmanager
def cranes_registry(directory, peers):
    """Runs the registry that comes with crane, which shares no code with the others; yields its host and port."""
    (directory / "blobs").mkdir(parents=True)
    command = peers.command("crane", "registry", "serve", "--address", "127.0.0.1:0", "--disk", directory / "blobs")
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen([*daemons.OURS, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        while not (found := re.search(r"serving on port (\d+)", words := (directory / "log").read_text())):
            require(process.poll() is None, words)
            time.sleep(0.05)
        yield f"127.0.0.1:{found[1]}"
    finally:
        process.terminate()
        process.wait()


class Round:
    """One registry, and all who meet there."""

    def __init__(self, bench, name, host, work):
        self.bench, self.host, self.work = bench, host, work
        self.prefix = f"registry, {name}:"

    def check(self, words):
        return self.bench.report.check(f"{self.prefix} {words}")

    def restow(self, command, *arguments):
        quiet = () if command == "verify" else ("--progress", "none")
        return run(self.bench.restow, command, *quiet, *arguments).stdout.strip()

    def meet(self, name, reference, fellows):
        """restow puts an image; everyone fetches it and puts it elsewhere, from where restow fetches it."""
        root = only_entry(*split(reference))
        put = f"{self.host}/{name}:restow"
        with self.check(f"{name} put by restow is the source, byte for byte"):
            printed = self.restow("copy", "--all-platforms", reference, f"docker://{put}")
            require(printed == root, f"printed {printed}")
            require(digest(manifest(self.host, name, "restow")) == root, "the registry holds another manifest")
        for number, client in enumerate(fellows):
            with tempfile.TemporaryDirectory(dir=self.work) as directory:
                with self.check(f"{name} put by restow is fetched by {client.name}"):
                    found = client.fetch(put, directory)
                    require(found == root, f"it got {found}")
                other = f"client-{number}/{name}"
                with self.check(f"{name} put by {client.name} is fetched by restow"):
                    client.put(put, directory, f"{self.host}/{other}:put")
                    require(digest(manifest(self.host, other, "put")) == root, f"{client.name} changed it")
                    there = f"{directory}/restow:{name}"
                    printed = self.restow("copy", "--all-platforms", f"docker://{self.host}/{other}:put", there)
                    require(printed == root, f"printed {printed}")
                    self.restow("verify", there)

    def podman(self, name, reference):
        """podman keeps an image in its own way: what it puts has other layers, of the same content."""
        with self.check(f"{name} put by restow is pulled by podman, and put by podman is fetched by restow"):
            with tempfile.TemporaryDirectory(dir=self.work) as directory:
                store = Store(self.bench.peers, Path(directory))
                image = store.pull(f"{self.host}/{name}:restow").image
                config = self.config(name, "restow")
                require(f"sha256:{image}" == config["digest"], f"podman calls it {image}, its config is {config}")
                store.podman("push", "--tls-verify=false", image, f"docker://{self.host}/podman/{name}:put")
                there = f"{directory}/restow:{name}"
                self.restow("copy", f"docker://{self.host}/podman/{name}:put", there)
                self.restow("verify", there)
                require(self.config(f"podman/{name}", "put")["digest"] == config["digest"], "it has another config")

    def config(self, name, tag):
        """The descriptor of the config for this machine."""
        document = json.loads(manifest(self.host, name, tag))
        for entry in document.get("manifests", ()):
            if entry["platform"] == {"os": "linux", "architecture": "amd64"}:
                document = json.loads(manifest(self.host, name, entry["digest"]))
        return document["config"]

    def referrers(self, name, root):
        """What oras attaches comes along with restow, into layouts and archives and back, where oras finds it."""
        oras, here = self.bench.peers.run, f"{self.host}/{name}"

        def about(*place):
            told = json.loads(oras("oras", "discover", "--format", "json", *place).stdout)
            # Of one another, as deep as they go.
            return sum(1 for _ in re.finditer(r'"digest"', json.dumps(told.get("referrers", told.get("manifests", ())))))

        with tempfile.TemporaryDirectory(dir=self.work) as directory:
            note = Path(directory, "note")
            note.write_text("signed, or something like it")
            attach = ("oras", "attach", "--no-tty", "--disable-path-validation", "--plain-http", "--artifact-type", "text/note")
            with self.check("what oras attached comes along, through a layout"):
                oras(*attach, f"{here}@{root}", note)
                require(about("--plain-http", f"{here}@{root}") == 1, "the registry shows no referrer")
                layout = f"{directory}/layout"
                self.restow("copy", "--all-platforms", "--referrers", f"docker://{here}:restow", f"oci:{layout}:v1")
                require(about("--oci-layout", f"{layout}:v1") == 1, "oras finds none in the layout")
                self.restow("copy", "--all-platforms", "--referrers", f"oci:{layout}:v1", f"docker://{self.host}/with/{name}:v1")
                require(about("--plain-http", f"{self.host}/with/{name}:v1") == 1, "oras finds none after the way back")
            with self.check("what oras copied with its referrers is read so, from an archive too"):
                layout = f"{directory}/by-oras"
                oras("oras", "cp", "--no-tty", "-r", "--from-plain-http", "--to-oci-layout", f"{here}:restow", f"{layout}:v1")
                archive = f"oci-archive:{directory}/archive.tar"
                self.restow("copy", "--all-platforms", "--referrers", f"oci:{layout}:v1", f"{archive}:v1")
                self.restow("copy", "--all-platforms", "--referrers", f"{archive}:v1", f"docker://{self.host}/again/{name}:v1")
                require(about("--plain-http", f"{self.host}/again/{name}:v1") == 1, "they are lost")

    def conversions(self, name, reference):
        with self.check(f"{name} converted there is what is converted on disk"):
            options = ["--zstdchunked", "--all-platforms", "--no-cache"]
            there = self.restow("optimize", f"docker://{self.host}/{name}:restow", f"docker://{self.host}/{name}:lazy", *options)
            here = self.restow("optimize", reference, f"{self.work}/here:{name}", *options)
            require(there == here, f"{there} there, {here} here")
            self.restow("verify", f"docker://{self.host}/{name}:lazy")

    def second(self, name, reference):
        with self.check("a second push of the same is a look"):
            told = run(self.bench.restow, "copy", "--all-platforms", "--registry-stats", reference,
                       f"docker://{self.host}/{name}:restow").stderr
            require("1 request to registries" in told, told)

    def archives(self, name):
        with self.check("docker archives are what skopeo takes and makes"):
            archive, made = self.work / "saved.tar", self.work / "made.tar"
            self.restow("copy", "--platform", "linux/amd64", f"docker://{self.host}/{name}:restow",
                        f"docker-archive:{archive}:example.org/{name}:v1")
            run("skopeo", "inspect", f"docker-archive:{archive}:example.org/{name}:v1")
            run("skopeo", "copy", "--quiet", "--src-tls-verify=false", "--override-os", "linux", "--override-arch",
                "amd64", f"docker://{self.host}/{name}:restow", f"docker-archive:{made}:example.org/{name}:v2")
            self.restow("verify", f"docker-archive:{made}:example.org/{name}:v2")


def split(reference):
    directory, _, tag = reference.partition(":")
    return directory, tag


def plain(bench, work, references):
    peers = bench.peers
    places = (("docker-registry 2.8.2", lambda directory: registry(directory)),
              ("docker-registry 2.8.3", lambda directory: newer_registry(directory, peers)),
              ("crane's", lambda directory: cranes_registry(directory, peers)))
    first = next(iter(references))
    with daemons.containerd(work / "old") as old, daemons.containerd(work / "new", peers.command) as new:
        fellows = clients.all_of(peers, old, new)
        for number, (kind, start) in enumerate(places):
            place = work / f"place-{number}"
            place.mkdir()
            with start(work / f"registry-{number}") as host:
                one = Round(bench, kind, host, place)
                for name, reference in references.items():
                    one.meet(name, reference, fellows)
                    if name not in TWICE_NAMED:
                        one.podman(name, reference)
                    one.conversions(name, reference)
                one.second(first, references[first])
                one.referrers(first, only_entry(*split(references[first])))
                one.archives(first)
                for client, daemon in (("1.6", old), ("2.1", new)):
                    with one.check(f"containerd {client} pulls and unpacks what restow converted"):
                        daemon.ctr("images", "pull", "--plain-http", f"{host}/{first}:lazy", client="ctr")


@contextmanager
def newer_registry(directory, peers):
    with daemons.registry(directory, peers) as server:
        yield server.address


def guarded(bench, work, reference):
    """By TLS with an authority of our own, behind a password."""
    restow, report = bench.restow, bench.report
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


def judge(bench, work, references):
    work.mkdir()
    plain(bench, work, references)
    guarded(bench, work, next(iter(references.values())))
