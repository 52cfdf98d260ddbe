import subprocess
import sys

from benchmarks.generator import build_generator

sys.exit(subprocess.run([build_generator(), *sys.argv[1:]], check=False).returncode)
