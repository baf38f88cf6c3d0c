#!/usr/bin/env python3
"""Whether hone pull and huggingface_hub share one cache, both ways, against a server of this file.

    python3 tools/oracle/check_hub.py build/hone     (pip install huggingface_hub==2.4.0)

The server answers as the hub does: /api/models/…, HEAD and GET of /…/resolve/…, large files on
another port, a token for all that the hub itself serves. Prints a line for each check; exits 1
where one fails.
"""
import hashlib
import http.server
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "org/name"
TOKEN = "hf_check"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "sub/notes.txt": b"notes\n",
    "empty.txt": b"",
    "model.safetensors": random.Random(1).randbytes(3_000_000),
    "copy.safetensors": random.Random(1).randbytes(3_000_000),
}
FOLDER = "models--org--name"
failed = 0
log = []  # (server, method, path, Range)


def is_large(name):
    return name.endswith(".safetensors")


def etag(name):
    data = FILES[name]
    if is_large(name):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def content(self, data, headers):
        begin = self.headers.get("Range", "")
        if not begin:
            return self.answer(200, headers, data)
        at = int(begin.removeprefix("bytes=").split("-")[0])
        if at >= len(data):
            return self.answer(416, {"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {at}-{len(data) - 1}/{len(data)}"
        return self.answer(206, headers, data[at:])

    def do_HEAD(self):
        self.do_GET()


class Cdn(Handler):
    def do_GET(self):
        log.append(("cdn", self.command, self.path, self.headers.get("Range")))
        if "Authorization" in self.headers:
            log.append(("TOKEN LEAKED", self.command, self.path, None))
        return self.content(FILES[self.path[1:]], {})


class Hub(Handler):
    def do_GET(self):
        path = self.path.split("?")[0]
        log.append(("hub", self.command, path, self.headers.get("Range")))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"X-Error-Code": "RepoNotFound"})
        api = f"/api/models/{NAME}"
        if path in (f"{api}/revision/main", f"{api}/revision/{COMMIT}", api):
            j = {"id": NAME, "modelId": NAME, "sha": COMMIT, "private": False, "tags": [],
                 "downloads": 0, "likes": 0, "siblings": [{"rfilename": n} for n in FILES]}
            return self.answer(200, {"Content-Type": "application/json"}, json.dumps(j).encode())
        if path in (f"{api}/tree/main", f"{api}/tree/{COMMIT}"):
            entries = []
            for name, data in FILES.items():
                e = {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                if is_large(name):
                    e["lfs"] = {"oid": etag(name), "size": len(data), "pointerSize": 130}
                else:
                    e["oid"] = etag(name)
                entries.append(e)
            return self.answer(200, {"Content-Type": "application/json"},
                               json.dumps(entries).encode())
        for revision in (COMMIT, "main"):
            prefix = f"/{NAME}/resolve/{revision}/"
            if path.startswith(prefix) and path[len(prefix):] in FILES:
                return self.resolve(path[len(prefix):])
        return self.answer(404, {"X-Error-Code": "EntryNotFound"})

    def resolve(self, name):
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag(name)}"'}
        if not is_large(name):
            return self.content(FILES[name], headers)
        headers["Location"] = f"http://127.0.0.1:{cdn.server_port}/{name}"
        headers["X-Linked-Etag"] = headers.pop("ETag")
        headers["X-Linked-Size"] = str(len(FILES[name]))
        return self.answer(302, headers)


def serve(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


cdn, hub = serve(Cdn), serve(Hub)


def check(what, good):
    global failed
    failed += not good
    print(("ok    " if good else "WRONG ") + what)


def environment(home, offline):
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    env.update(HF_HOME=str(home), HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}",
               HF_TOKEN=TOKEN, HF_HUB_OFFLINE="1" if offline else "0", HF_HUB_DISABLE_XET="1",
               HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_UPDATE_CHECK="1")
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN_PATH"):
        env.pop(name, None)
    return env


def hone(home, *flags, offline=False):
    run = subprocess.run([sys.argv[1], "pull", NAME, *flags], capture_output=True, text=True,
                         env=environment(home, offline), check=False)
    return run.returncode, run.stdout.strip(), run.stderr


def library(home, offline=False):
    code = ("from huggingface_hub import snapshot_download; "
            f"print(snapshot_download('{NAME}', local_files_only={offline}))")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                         env=environment(home, offline), check=False)
    return run.returncode, run.stdout.strip(), run.stderr


def snapshot(home):
    return pathlib.Path(home) / "hub" / FOLDER / "snapshots" / COMMIT


def layout(home):
    """Every path below the folder, with what links point to and files hold; without locks."""
    root = pathlib.Path(home) / "hub" / FOLDER
    out = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            out[name] = "-> " + os.readlink(path)
        elif path.is_file():
            out[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return out


def is_whole(home):
    return all((snapshot(home) / n).read_bytes() == d for n, d in FILES.items())


def bodies():
    return [entry for entry in log if entry[1] == "GET" and ("resolve" in entry[2] or entry[0] == "cdn")]


def main():
    import huggingface_hub
    print(f"huggingface_hub {huggingface_hub.__version__}")
    with tempfile.TemporaryDirectory() as top:
        ours, theirs, half, old = (pathlib.Path(top) / n for n in ("ours", "theirs", "half", "old"))
        status, out, err = hone(ours)
        check(f"hone pulls {err.strip()[-90:]}", status == 0 and is_whole(ours))
        check("its output is the snapshot's path", out == str(snapshot(ours)))
        status, out, err = library(ours, offline=True)
        check("the library finds it offline", status == 0 and out == str(snapshot(ours)))
        log.clear()
        status, out, err = library(ours)
        check("the library fetches nothing again", status == 0 and not bodies())

        status, out, err = library(theirs)
        check(f"the library pulls {err.strip()[-90:] if status else ''}",
              status == 0 and is_whole(theirs))
        log.clear()
        status, out, err = hone(theirs)
        check("hone fetches nothing again",
              status == 0 and not bodies() and out == str(snapshot(theirs)))
        status, out, err = hone(theirs, offline=True)
        check("hone finds it offline", status == 0 and out == str(snapshot(theirs)))
        status, out, err = hone(theirs, "--verify")
        check("hone --verify finds nothing wrong", status == 0 and "damaged" not in err)
        mine, yours = layout(ours), layout(theirs)
        yours = {k: v for k, v in yours.items() if not k.startswith("trees/")}
        mine = {k: v for k, v in mine.items() if not k.startswith("trees/")}
        check(f"both caches hold the same files, links and refs ({len(mine)})", mine == yours)

        # What a run of an older version of the library, or of hone, left half done.
        blobs = half / "hub" / FOLDER / "blobs"
        blobs.mkdir(parents=True)
        name = "model.safetensors"
        (blobs / f"{etag(name)}.incomplete").write_bytes(FILES[name][:1_000_000])
        log.clear()
        status, out, err = hone(half)
        ranges = [entry[3] for entry in log if entry[0] == "cdn"]
        check(f"hone resumes ETAG.incomplete {ranges}",
              status == 0 and is_whole(half) and ranges == ["bytes=1000000-"])

        # A part by hone, the rest by the library.
        status, out, err = hone(old, "--include", "config.json")
        check("hone pulls a part", status == 0)
        log.clear()
        status, out, err = library(old)
        got = [entry for entry in bodies() if "config.json" in entry[2]]
        check("the library adds the rest to hone's part", status == 0 and is_whole(old) and not got)
    check("the token went to the hub alone", not any(e[0] == "TOKEN LEAKED" for e in log))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
