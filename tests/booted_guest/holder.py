"""Holds files of all sorts open while caches are dropped, and then says what they hold."""

import mmap
import os

HERE = "/srv/held"
os.makedirs(HERE)
os.chdir(HERE)
read_only = os.open("/usr/share/perl5/Debconf/Config.pm", os.O_RDONLY)
written = os.open("written", os.O_RDWR | os.O_CREAT)
os.write(written, b"before ")
nameless = os.open("nameless", os.O_RDWR | os.O_CREAT)
os.write(nameless, b"no name")
os.unlink("nameless")
with open("/usr/bin/perl", "rb") as file:
    program = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
with open("mapped", "w+b") as file:
    file.write(b"." * 10000)
    file.flush()
    mapped = mmap.mmap(file.fileno(), 0)
directory = os.open("/usr/share/perl5/Debconf", os.O_RDONLY)
os.mkfifo("go")
with open("holding", "w") as file:
    file.write("yes")
with open("go") as file:
    file.read()

os.write(written, b"after")
mapped[5000:5005] = b"after"
mapped.flush()
found = [
    len(os.read(read_only, 100)),
    os.pread(written, 20, 0),
    os.pread(nameless, 20, 0),
    os.fstat(nameless).st_nlink,
    program[:4],
    sum(program[::4096]),
    mapped[4998:5006],
    len(os.listdir(directory)),
    os.stat("FrontEnd", dir_fd=directory).st_nlink > 1,
]
with open("found.part", "w") as file:
    file.write(repr(found))
os.rename("found.part", "found")
