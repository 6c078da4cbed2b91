"""Debian's packages and sources, fetched by an apt that has folders of its own.

What this machine has installed, and what its apt knows, stays as it is. The archive is the one that apt has
here, in the suite that is asked for; apt checks the signatures.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class MissingError(Exception):
    """What cannot be had from this machine, as a sentence's end."""


def apt(*words: str | Path, cwd: Path | None = None) -> str:
    """The standard output of apt-get."""
    try:
        done = subprocess.run(
            ["apt-get", "-qq", *map(str, words)], cwd=cwd, capture_output=True, encoding="utf-8", check=False
        )
    except FileNotFoundError:
        raise MissingError("apt-get is not here, and Debian's packages are fetched by it") from None
    if done.returncode != 0:
        raise MissingError(
            f"Debian's archive does not give it: {(done.stderr.strip().splitlines() or ['?'])[0]}"
        )
    return done.stdout


def archive() -> str:
    """The address of Debian's archive as apt knows it here."""
    told = apt("indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages")
    for line in told.splitlines():
        label, _, address = line.rpartition(" ")
        if label == "Debian":
            return address
    raise MissingError("no archive of Debian is among apt's sources here; `apt-get update` may be due")


def fetch(folder: Path, suite: str, architecture: str, command: str, *packages: str) -> Path:
    """The files of these packages, in a new folder: command is "download", or "source" for their sources."""
    shutil.rmtree(folder, ignore_errors=True)
    for needed in ("lists/partial", "cache/archives/partial", "files"):
        (folder / needed).mkdir(parents=True)
    signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    kind = "deb-src" if command == "source" else "deb"
    sources = folder / "sources.list"
    sources.write_text(f"{kind} {signed}{archive()} {suite} main\n", encoding="utf-8")
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "root",  # its own user may not write here
        "Dir::Cache": folder / "cache",
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": folder / "lists",
        "Dir::State::Status": "/dev/null",
    }
    own = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    apt(*own, "update", "--error-on=any")
    only = ("--download-only",) if command == "source" else ()
    apt(*own, command, *only, *packages, cwd=folder / "files")
    return folder / "files"


def root_folder(root: Path, suite: str, architecture: str, packages: tuple[str, ...]) -> Path:
    """Fills a folder like a system's root with the files of these packages and of no others."""
    if not root.exists():
        files = fetch(root.with_name(f"{root.name}-debs"), suite, architecture, "download", *packages)
        filling = root.with_name(f"{root.name}-filling")
        shutil.rmtree(filling, ignore_errors=True)
        for package in files.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, filling], check=True)
        if not (filling / "lib").exists():  # newer packages have all in usr, and another one this link
            (filling / "lib").symlink_to("usr/lib")
        filling.rename(root)
    return root
