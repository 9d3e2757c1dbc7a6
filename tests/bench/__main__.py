"""All benchmarks, as ratios to a bare baseline in the same run. `make bench`."""

import subprocess
import sys

for name in ("rest", "callbacks", "deliveries"):
    subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], check=True)
