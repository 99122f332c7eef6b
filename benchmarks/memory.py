"How much memory a process has held; light to import, because it is measured with others."

import sys
from pathlib import Path


def peak_bytes() -> int:
    "The most memory that this process held, and the largest of its helpers."
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset
    unit = 1 if sys.platform == "darwin" else 1024
    helper = unit * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    status = Path("/proc/self/status")
    if (
        status.exists()
    ):  # Linux's ru_maxrss counts the parent's memory, from before it was loaded
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0]) + helper
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + helper
