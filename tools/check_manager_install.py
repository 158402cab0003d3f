"""Install the pack as ComfyUI-Manager does, into a bare copy of a ComfyUI, start it, and see that every node is there.

    python tools/check_manager_install.py [PATH OF COMFYUI] [--folder FOLDER]

Without a path: the ComfyUI that find_host finds. Needs git, uv and a package index; some minutes, and some gigabytes
in the temporary folder, which holds everything it writes: the copy, an environment with the requirements of ComfyUI and
of the ComfyUI-Manager that it names, a clone of this checkout's HEAD. Two ways are taken, each by Manager's own command
`cm-cli install`, each followed by a start of the server and `cm-cli uninstall`:

git        from a git address, as "Install via Git URL" does; the clone is served on 127.0.0.1
registry   from a zip by id and version, as the Manager's window does; a stand-in for the registry answers on 127.0.0.1

It prints what it checked and ends with 1 when something is missing. It does not cover the real
registry, GitHub or Manager's window.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).absolute().parent.parent
sys.path.insert(0, str(ROOT))

from cones_ops.laboratory.comfyui.checkout import find_host  # noqa: E402 - found through the line above
from cones_ops.laboratory.comfyui.server import Server, serving  # noqa: E402

NAME = "cones-concept-neurons"
LEFT_OUT = {".git", ".venv", "venv", "custom_nodes", "models", "input", "output", "temp", "user", "tests-unit", "tests"}
# cm-cli, with the registry's address replaced by ours
CM_CLI = "import sys; from comfyui_manager.common import cnr_utils; cnr_utils.base_url = sys.argv.pop(1); "
CM_CLI += "from cm_cli import main; main()"


def output_of(command: list[str], **options: Any) -> str:
    """Run a command; its output, or the end of the program with it."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ... ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def bare_copy(host: Path, to: Path) -> Path:
    """A ComfyUI as it is after a download: no packs, no models."""
    shutil.copytree(host, to, ignore=lambda folder, names: LEFT_OUT & {*names} if Path(folder) == host else set())
    for folder in ("custom_nodes", "models/concept_masks", "input", "output", "user/__manager"):
        (to / folder).mkdir(parents=True)
    (to / "user" / "__manager" / "config.ini").write_text("[default]\nnetwork_mode = offline\n")
    return to


def environment(host: Path, to: Path) -> str:
    """A Python with the host's requirements and the Manager it asks for; nothing of ours."""
    python = str(to / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    if not to.exists():
        output_of(["uv", "venv", "--quiet", "--seed", str(to)])
    needed = ["-r", str(host / "requirements.txt"), "-r", str(host / "manager_requirements.txt"), "torch<2.12"]
    output_of(["uv", "pip", "install", "--quiet", "--python", python, *needed])
    return python


def packed(clone: Path) -> bytes:
    """The zip that the registry would serve: the tracked files of HEAD minus .comfyignore."""
    work = clone.with_name("work")
    output_of(["git", "clone", "--quiet", str(clone), str(work)])
    tracked = output_of(["git", "-C", str(work), "ls-files"]).splitlines()
    ignored = output_of(["git", "-C", str(work), "ls-files", "-c", "-i", "--exclude-from=.comfyignore"]).splitlines()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name in sorted({*tracked} - {*ignored}):
            file.write(work / name, name)
    return content.getvalue()


@contextlib.contextmanager
def served(folder: Path, package: bytes, version: str) -> Iterator[str]:
    """The address of a server on 127.0.0.1: the files in `folder`, and what the installer asks a registry for."""

    class Answers(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            address = f"http://{self.headers['Host']}"
            release = {"id": NAME, "version": version, "downloadUrl": f"{address}/package.zip"}
            release |= {"status": "NodeVersionStatusActive"}
            pack = {"id": NAME, "name": NAME, "repository": f"{address}/elsewhere", "latest_version": release}
            answers = {
                "/nodes": {"nodes": [pack], "totalPages": 1, "total": 1},
                f"/nodes/{NAME}/install": release,
                f"/nodes/{NAME}/versions": [release],
            }
            bodies = {path: json.dumps(answer).encode() for path, answer in answers.items()}
            body = (bodies | {"/package.zip": package}).get(path)
            if body is None:
                super().do_GET()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the installer repeats its request only to follow redirections
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def missing_from(server: Server, nodes: set[str]) -> list[str]:
    """What a running ComfyUI with the pack lacks, in words."""
    present = set(server.object_info())
    lacking = [f"node {node_id}" for node_id in sorted(nodes - present)]
    templates = server.json("/workflow_templates").get(NAME, [])
    lacking += [] if templates else ["example workflows"]
    page = server.request(f"/extensions/{NAME}/docs/ConesFindConceptNeurons.md")
    lacking += [] if page.startswith(b"#") else ["the help page of Find Concept Neurons"]
    known = server.json("/v2/customnode/installed")
    lacking += [] if NAME in known else [f"{NAME} in the Manager's list of packs: {', '.join(known) or 'nothing'}"]
    nodes_present = f"{len(nodes & present)} of {len(nodes)} nodes"
    print(f"  {nodes_present}, {len(templates)} example workflows; Manager: {known.get(NAME)}")
    return lacking


def check(way: str, python: str, host: Path, registry: str, target: str, nodes: set[str]) -> list[str]:
    """Install `target`, start, look, uninstall; what was missing."""
    print(f"{way}: cm-cli install {target}")
    environment = {**os.environ, "COMFYUI_PATH": str(host)}

    def cm_cli(*arguments: str) -> str:
        return output_of([python, "-c", CM_CLI, registry, *arguments], env=environment, cwd=host)

    answer = cm_cli("install", target, "--mode", "local", "--exit-on-fail")
    folder = host / "custom_nodes" / NAME
    if not (folder / "pyproject.toml").is_file():
        return [f"{way}: {folder} after the installation, which printed:\n{answer[-3000:]}"]
    files = [path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts]
    print(f"  {len(files)} files in {folder.name}")
    lacking = [] if "matplotlib" in output_of(["uv", "pip", "list", "--python", python]) else ["matplotlib"]
    with serving(python, host, host, "--enable-manager", environment=os.environ, patience=900) as server:
        lacking += missing_from(server, nodes)
    lacking += [line.strip() for line in server.log().splitlines() if "IMPORT FAILED" in line or "Traceback" in line]
    cm_cli("uninstall", NAME if way == "registry" else f"{NAME}@unknown", "--mode", "local")
    lacking += ["an uninstallation that removes the folder"] if folder.exists() else []
    return [f"{way}: {problem}" for problem in lacking]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("comfyui", nargs="?", type=Path, help="the ComfyUI checkout to copy")
    parser.add_argument("--folder", type=Path, help="work here, keep it, and use the environment that is there already")
    options = parser.parse_args()
    host = find_host(options.comfyui)
    work = options.folder or Path(tempfile.mkdtemp(prefix="cones-manager-"))
    for old in ("served", "ComfyUI"):
        shutil.rmtree(work / old, ignore_errors=True)
    try:
        clone = work / "served" / NAME
        output_of(["git", "clone", "--quiet", "--bare", str(ROOT), str(clone)])
        output_of(["git", "-C", str(clone), "update-server-info"])
        sources = output_of(["git", "-C", str(clone), "grep", "-h", "node_id=", "HEAD", "--", "nodes/"])
        nodes = set(re.findall(r'node_id="(\w+)"', sources))
        project = output_of(["git", "-C", str(clone), "show", "HEAD:pyproject.toml"])
        version = re.findall(r'^version = "(.+)"', project, re.M)[0]
        package = packed(clone)
        copy, python = bare_copy(host, work / "ComfyUI"), environment(host, work / "venv")
        manager = output_of(["uv", "pip", "show", "--python", python, "comfyui-manager"]).split("Version: ")[1]
        size = f"{len(package) / 1e6:.1f} MB"
        print(f"ComfyUI of {host}, Manager {manager.split()[0]}, {NAME} {version} (a zip of {size})")
        lacking = []
        with served(clone.parent, package, version) as address:
            for way, target in (("git", f"{address}/{NAME}"), ("registry", f"{NAME}@{version}")):
                output_of(["uv", "pip", "uninstall", "--quiet", "--python", python, "matplotlib"])
                lacking += check(way, python, copy, address, target, nodes)
    finally:
        if options.folder is None:
            shutil.rmtree(work, ignore_errors=True)
    print("\n".join(f"MISSING {one}" for one in lacking) or "everything is there")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
