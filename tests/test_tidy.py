"""The rules of the source tree that no linter holds. Each refusal says what to do instead."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES_MAX = 800
FUNCTION_LINES_MAX = 100
LINE_COLUMNS_MAX = 120

# The crates' arrows, as in docs/ARCHITECTURE.md. What an arrow reaches may be named directly too.
ARROWS = {
    "sds-core": {"sds-target"},
    "sds-target": {"sds-proto", "sds-volume", "sds-uring"},
    "sds-volume": {"sds-block", "sds-io"},
    "sds-uring": {"sds-io"},
    "sds-proto": {"sds-block"},
    "sds-sim": {"sds-volume", "sds-proto", "sds-io"},
    "sds-io": set[str](),
    "sds-block": set[str](),
}
UNSAFE_CRATES = ("crates/uring/", "crates/py/")
VAGUE_NAMES = {"util", "utils", "helper", "helpers", "misc"}
# Written in two halves, since this file is read too.
UNFINISHED = re.compile(r"\b(?:TO" + "DO|FIX" + "ME|X" + "XX)\\b")

_RUST_NOT_CODE = re.compile(
    r"""//[^\n]* | /\*.*?\*/ | b?r(?P<hashes>\#*)".*?"(?P=hashes) | b?"(?:\\.|[^"\\])*" | b?'(?:\\[^\n]+?|[^'\\\n])'""",
    re.DOTALL | re.VERBOSE,
)


def files(*suffixes: str) -> list[Path]:
    """Tracked and new files with one of the suffixes, ignored ones left out."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    paths = (ROOT / name for name in listed.split("\0") if name)
    return sorted(path for path in paths if path.suffix in suffixes and path.is_file())


def at(path: Path, line: int) -> str:
    """`path:line`, as editors take it."""
    return f"{path.relative_to(ROOT)}:{line}"


def rust_code(path: Path) -> str:
    """A Rust file with its comments and literals blanked; lines stay where they are."""
    return blank_rust(path.read_text())


def blank_rust(text: str) -> str:
    """See `rust_code`."""
    return _RUST_NOT_CODE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def block_end(code: str, opening: int) -> int:
    """The place of the brace that closes the one at `opening`."""
    depth = 0
    for place in range(opening, len(code)):
        depth += {"{": 1, "}": -1}.get(code[place], 0)
        if depth == 0:
            return place
    return len(code)


def rust_functions(code: str) -> Iterator[tuple[str, int, int]]:
    """Name, first line and number of lines of each function that has a body."""
    for found in re.finditer(r"\bfn\s+(\w+)", code):
        depth = 0
        for place in range(found.end(), len(code)):
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(code[place], 0)
            if depth == 0 and code[place] in ";{":
                break
        else:
            continue
        if code[place] == "{":
            first = code.count("\n", 0, found.start()) + 1
            yield found[1], first, code.count("\n", 0, block_end(code, place)) + 2 - first


def python_functions(path: Path) -> Iterator[tuple[str, int, int]]:
    """As `rust_functions`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1


def wildcard_arms(code: str) -> Iterator[int]:
    """Lines of `_ =>` arms in a `match` whose other arms are error kinds."""
    for found in re.finditer(r"\bmatch\b[^{};]*\{", code):
        body = code[found.end() : block_end(code, found.end() - 1)]
        arms = re.sub(r"\{[^{}]*\}", lambda inner: re.sub(r"[^\n]", " ", inner[0]), body)
        if re.search(r"\bErrorKind::\w+[^=]*=>", arms) and (arm := re.search(r"(?:^|[,}\s])_\s*=>", arms)):
            yield code.count("\n", 0, found.end() + arm.end()) + 1


def test_files_fit_in_a_reader() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {lines} lines; split it where its reader would look for the second half"
        for path in files(".py", ".rs", ".sh", ".pyi")
        if (lines := len(path.read_text().splitlines())) > FILE_LINES_MAX
    ]
    assert not long, "\n".join(long)


def test_functions_fit_on_a_screen() -> None:
    measured = [(path, function) for path in files(".rs") for function in rust_functions(rust_code(path))]
    measured += [(path, function) for path in files(".py") for function in python_functions(path)]
    long = [
        f"{at(path, first)}: {name} has {lines} lines (at most {FUNCTION_LINES_MAX}); give a step of it its own name"
        for path, (name, first, lines) in measured
        if lines > FUNCTION_LINES_MAX
    ]
    assert not long, "\n".join(long)


def test_lines_fit_on_a_screen() -> None:
    long = [
        f"{at(path, number)}: {len(line)} columns; break it (at most {LINE_COLUMNS_MAX})"
        for path in files(".py", ".rs", ".sh", ".pyi", ".toml", ".yaml", ".yml")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > LINE_COLUMNS_MAX
    ]
    assert not long, "\n".join(long)


def test_files_are_named_after_what_they_hold() -> None:
    vague = [
        f"{path.relative_to(ROOT)}: put each thing in it beside what uses it, or name the file after what it does"
        for path in files(".py", ".rs")
        if path.stem in VAGUE_NAMES or path.parent.name in VAGUE_NAMES
    ]
    assert not vague, "\n".join(vague)


def test_nothing_is_left_for_later_in_the_code() -> None:
    unfinished = [
        f"{at(path, number)}: finish it, or open an issue and say in the code what holds today"
        for path in files(".py", ".rs", ".sh", ".pyi", ".toml", ".md", ".yaml")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert not unfinished, "\n".join(unfinished)


def test_unsafe_stays_where_the_kernel_and_python_are_met() -> None:
    outside = [
        f"{at(path, number)}: unsafe belongs in {' or '.join(UNSAFE_CRATES)}; offer it there behind a safe function"
        for path in files(".rs")
        if not str(path.relative_to(ROOT)).startswith(UNSAFE_CRATES)
        for number, line in enumerate(rust_code(path).splitlines(), 1)
        if re.search(r"\bunsafe\b", line)
    ]
    assert not outside, "\n".join(outside)


def test_error_tables_name_every_kind() -> None:
    open_ended = [
        f"{at(path, line)}: name every error kind, so that a new one does not compile until it has its own code"
        for path in files(".rs")
        for line in wildcard_arms(rust_code(path))
    ]
    assert not open_ended, "\n".join(open_ended)


def test_links_lead_somewhere() -> None:
    dead = [
        f"{at(path, number)}: {link} leads nowhere; name the file as seen from this folder"
        for path in files(".md")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for link in re.findall(r"\]\(([^)\s]+)\)", line)
        if "://" not in link and not link.startswith(("mailto:", "#"))
        if not (path.parent / link.partition("#")[0]).exists()
    ]
    assert not dead, "\n".join(dead)


def reachable(crate: str) -> set[str]:
    """The crates that the arrows lead to from one."""
    found: set[str] = set()
    ahead = set(ARROWS[crate])
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            ahead |= ARROWS[name]
    return found


def test_crates_depend_along_the_arrows() -> None:
    against = []
    manifests = sorted(ROOT.glob("crates/*/Cargo.toml"))
    assert manifests, "no crates found"
    for manifest in manifests:
        told = tomllib.loads(manifest.read_text())
        crate = told["package"]["name"]
        if crate not in ARROWS:
            against.append(f"{manifest.relative_to(ROOT)}: {crate} has no place in ARROWS; decide its arrows first")
            continue
        sections = [told, *told.get("target", {}).values()]
        wanted = {
            name
            for section in sections
            for kind in ("dependencies", "dev-dependencies", "build-dependencies")
            for name in section.get(kind, {})
            if name.startswith("sds-")
        }
        against += [
            f"{manifest.relative_to(ROOT)}: no arrow leads from {crate} to {name}; "
            "move the shared part down, or turn the call round with a trait"
            for name in sorted(wanted - reachable(crate) - {crate})
        ]
    assert not against, "\n".join(against)


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of each import."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).with_suffix("").parts[: -node.level] if node.level else ()
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def test_processes_meet_only_over_the_socket() -> None:
    barred = {
        "engine": ("sds.gateway", "sds.tiering", "fastapi", "starlette", "uvicorn"),
        "gateway": ("sds.engine", "sds.tiering", "sds._core", "rocksdict"),
        "tiering": ("sds.engine", "sds.gateway", "sds._core", "rocksdict", "fastapi", "starlette", "uvicorn"),
    }
    crossing = [
        f"{at(path, line)}: {process} may not import {name}; ask the other process by JSON-RPC"
        for process, names in barred.items()
        for path in files(".py")
        if path.is_relative_to(ROOT / "sds" / process)
        for line, name in imports_of(path)
        if any(name == one or name.startswith(f"{one}.") for one in names)
    ]
    assert not crossing, "\n".join(crossing)


def test_the_rust_reader_sees_code_and_only_code() -> None:
    text = r"""
    /// unsafe fn in_a_comment() {
    pub fn two<'a>(x: &'a str, y: [u8; 2]) -> char {
        let s = "unsafe { \" }"; let r = r#"}"}"#; let c = '{'; '\''
    }
    fn declared(&self);
    fn table(kind: Kind) -> u8 {
        match kind {
            ErrorKind::NoSpace => 1,
            ErrorKind::Busy { retry } => { 2 }
            _ => 3,
        }
    }
    fn other(x: u8) -> u8 { match x { 1 => 2, _ => 3 } }
    """
    code = blank_rust(text)
    assert "unsafe" not in code
    assert code.count("\n") == text.count("\n")
    assert list(rust_functions(code)) == [("two", 3, 3), ("table", 7, 7), ("other", 14, 1)]
    assert list(wildcard_arms(code)) == [11]
