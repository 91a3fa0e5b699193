"""Reads the guest disk of an image with libyal's readers: yal.py FORMAT IMAGE OUT.

FORMAT is vhd, qcow2 or vmdk. OUT is a raw file with holes where the disk is zero.
"""

import os
import sys


def opened(fmt, path):
    if fmt == "qcow2":
        import pyqcow

        disk = pyqcow.file()
        disk.open(path)
    elif fmt == "vhd":
        import pyvhdi

        disk = pyvhdi.file()
        disk.open(path)
    elif fmt == "vmdk":
        import pyvmdk

        disk = pyvmdk.handle()
        disk.open(path)
        disk.open_extent_data_files()
    else:
        sys.exit(f"no reader of libyal for {fmt}")
    return disk


def main(fmt, path, out):
    disk = opened(fmt, path)
    size, pos, step = disk.get_media_size(), 0, 1 << 20
    with open(out, "wb") as raw:
        raw.truncate(size)
        while pos < size:
            chunk = disk.read_buffer_at_offset(min(step, size - pos), pos)
            if not chunk:
                sys.exit(f"the reader ends at {pos} of {size}")
            if chunk.count(0) != len(chunk):
                os.pwrite(raw.fileno(), chunk, pos)
            pos += len(chunk)


if __name__ == "__main__":
    main(*sys.argv[1:])
