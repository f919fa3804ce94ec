"""The engine means the same as plain Python: its stories are told once more without the compiled modules."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMPILED = shutil.ignore_patterns("*.so", "*.c", "__pycache__")


def test_the_engine_keeps_its_promises_uncompiled(tmp_path):
    shutil.copytree(ROOT / "proxy", tmp_path / "proxy", ignore=COMPILED)
    for part in ("__init__.py", "support", "session", "amqp"):
        source = ROOT / "tests" / part
        if source.is_dir():
            shutil.copytree(source, tmp_path / "tests" / part, ignore=COMPILED)
        else:
            (tmp_path / "tests").mkdir(exist_ok=True)
            shutil.copy(source, tmp_path / "tests" / part)
    look = "import proxy.session.relay as r; print(r.__file__)"
    where = subprocess.run([sys.executable, "-c", look], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert where.stdout.strip() == str(tmp_path / "proxy/session/relay.py")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
