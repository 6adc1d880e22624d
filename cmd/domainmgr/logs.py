"""What a domain prints, bounded.

The domain writes its log itself (O_APPEND), so that nothing has to stand between it and the file, and it goes on
when domainmgr does not run. When the file is over the limit its end is copied to <name>.1 and the file is emptied in
place; lines written between the two are lost. While no domainmgr runs nobody trims.
"""

import os
from pathlib import Path

LOG_LIMIT_BYTES = 8 << 20
KEPT_BYTES = 4 << 20  # of the newest, in <name>.1


def trim(path: Path, limit_bytes: int = LOG_LIMIT_BYTES, kept_bytes: int = KEPT_BYTES) -> bool:
    """Cut the log when it is over the limit; True when it was. A log that is not there is fine."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        size = os.fstat(file).st_size
        if size <= limit_bytes:
            return False
        newest = os.pread(file, kept_bytes, max(0, size - kept_bytes))
        staged = path.with_name(path.name + ".1.tmp")
        staged.write_bytes(newest)
        staged.rename(path.with_name(path.name + ".1"))
        os.ftruncate(file, 0)
        return True
    finally:
        os.close(file)
