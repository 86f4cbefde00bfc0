import subprocess
import sys


def test_without_matplotlib_the_extra_is_named():
    code = "import sys; sys.modules['matplotlib'] = None; import dms_jax.report"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ImportError: pictures need matplotlib: pip install 'dms_jax[report]'" in done.stderr


def test_the_library_does_not_import_matplotlib():
    code = "import sys, dms_jax; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
