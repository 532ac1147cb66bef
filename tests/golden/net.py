"""Records what the programs give, and compares later code with it; see README.md beside it.

python tests/golden/net.py record [SECTION...]
python tests/golden/net.py compare [SECTION...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from golden_cases import SECTIONS  # noqa: E402
from golden_compare import differences  # noqa: E402

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
SHOWN = 300  # characters of a value in a report


def path_of(section: str) -> Path:
    """The file that holds the recorded values of a section."""
    return HERE / "values" / f"{section}.json"


def run(section: str) -> dict[str, Any]:
    """Returns the results of a section, made by a process of its own."""
    with tempfile.TemporaryDirectory() as tmp:
        out = Path(tmp) / "results.json"
        command = [sys.executable, str(HERE / "net.py"), "worker", section, str(out)]
        subprocess.run(command, check=True, env={**os.environ, **ONE_THREAD})
        results: dict[str, Any] = json.loads(out.read_text())
        return results


def work(section: str, out: Path) -> None:
    """Runs a section in this process and writes its results."""
    import golden_programs

    with golden_programs.at_root(), tempfile.TemporaryDirectory() as tmp:
        if section == "serve":
            from golden_serving import run_serving

            results = run_serving(Path(tmp))
        else:
            results = golden_programs.run_section(SECTIONS[section], Path(tmp))
    out.write_text(json.dumps(results))


def record(section: str) -> None:
    """Writes the values of a section, a case in a line."""
    results = run(section)
    lines = [
        f"{json.dumps(case)}: {json.dumps(result, separators=(',', ':'), ensure_ascii=False)}"
        for case, result in results.items()
    ]
    path_of(section).parent.mkdir(exist_ok=True)
    path_of(section).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def compare(section: str) -> int:
    """Prints every difference of a section from its recorded values; returns how many."""
    old, new = json.loads(path_of(section).read_text(encoding="utf-8")), run(section)
    count = 0
    for case in [*old, *(case for case in new if case not in old)]:
        for path, was, now in differences(old.get(case), new.get(case)):
            print(f"{section} | {case} | {path}\n  old {was!r:.{SHOWN}}\n  new {now!r:.{SHOWN}}")
            count += 1
    return count


def main() -> int:
    """Records or compares sections; 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["record", "compare", "worker"])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    args = parser.parse_args()
    if args.action == "worker":
        work(args.sections[0], Path(args.sections[1]))
        return 0
    if unknown := [name for name in args.sections if name not in SECTIONS]:
        parser.error(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    total = 0
    for section in args.sections or SECTIONS:
        start = time.monotonic()
        found = record(section) if args.action == "record" else compare(section)
        total += found or 0
        says = "recorded" if found is None else f"{found} differences"
        print(f"{section}: {says}, {time.monotonic() - start:.0f} s", flush=True)
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
