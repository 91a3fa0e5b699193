"""Reads the guest disk of an image with an independent reader: read.py READER FORMAT IMAGE OUT [MOST_BYTES].

READER is libyal, dissect or dissect-stream (its file-like interface), FORMAT is vhd, qcow2 or vmdk. OUT becomes a raw file with holes where the disk is zero. A disk
larger than MOST_BYTES is not read. If the reader fails, the last line of standard error is the error's type and text.
"""

import os
import resource
import sys
from pathlib import Path

# CPU time, not elapsed time: the result must not depend on the load of the machine.
CPU_SECONDS = 60
MEMORY_BYTES = 2 << 30
STEP = 1 << 20


def libyal(fmt, path):
    if fmt == "qcow2":
        import pyqcow

        disk = pyqcow.file()
        disk.open(path)
    elif fmt == "vhd":
        import pyvhdi

        disk = pyvhdi.file()
        disk.open(path)
    else:
        import pyvmdk

        disk = pyvmdk.handle()
        disk.open(path)
        disk.open_extent_data_files()
    return disk.get_media_size(), disk.read_buffer_at_offset


def dissect(fmt, path, stream=False):
    if fmt == "qcow2":
        from dissect.hypervisor.disk.qcow2 import QCow2

        image = QCow2(Path(path))
        disk = image.open()

        def read(count, pos):
            disk.seek(pos)
            return disk.read(count)

        return image.size, read

    if fmt == "vhd":
        from dissect.hypervisor.disk.vhd import VHD

        image = VHD(open(path, "rb"))
        size, disk = image.size, image.disk
    else:
        from dissect.hypervisor.disk.vmdk import VMDK

        disk = image = VMDK(Path(path))
        size = image.size

    # Not as a stream: it rounds reads up to 8 KiB, and fails at the end of a disk whose size is not a multiple of 8 KiB.
    def sectors(count, pos):
        if stream:
            image.seek(pos)
            return image.read(count)
        return disk.read_sectors(pos // 512, -(-count // 512))[:count]

    return size, sectors


def dissect_stream(fmt, path):
    return dissect(fmt, path, stream=True)


READERS = {"libyal": libyal, "dissect": dissect, "dissect-stream": dissect_stream}


def main(reader, fmt, path, out, most=None):
    if reader not in READERS or fmt not in ("vhd", "qcow2", "vmdk"):
        sys.exit(f"no reader {reader} for {fmt}")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    size, read = READERS[reader](fmt, path)
    if most is not None and size > int(most):
        sys.exit(f"the disk has {size} bytes, more than the {most} that are read")
    pos = 0
    with open(out, "wb") as raw:
        raw.truncate(size)
        while pos < size:
            chunk = read(min(STEP, size - pos), pos)
            if not chunk:
                sys.exit(f"the reader ends at {pos} of {size}")
            if chunk.count(0) != len(chunk):
                os.pwrite(raw.fileno(), chunk, pos)
            pos += len(chunk)


if __name__ == "__main__":
    main(*sys.argv[1:])
