"""Ways in which a program could tell later programs something, and policies that learn from it.

A channel is source text of two functions: `put` leaves a number from 0 to 15, and `get`, in another program, returns
it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Channel:
    """A way to hand a number from program to program.

    Args:
        name: Short and unique.
        source: Defines `put(number)` and `get()`.
        together: Whether both programs must run at the same time.
        clean: Takes back what the channel leaves on the machine.
        holes: Why the channel is open, by isolation level.
    """

    name: str
    source: str
    together: bool = False
    clean: str = ""
    holes: tuple[tuple[str, str], ...] = ()

    def hole_at(self, level: str) -> str:
        """Return why the channel is open at `level`, or ""."""
        return dict(self.holes).get(level, "")

    def rest_seconds(self, place: int) -> float:
        """Return the time to let pass between the programs, so that the receiver's own clock tells it nothing."""
        return place * 0.37 % 0.8 if "time" in self.name else 0.0

    @property
    def sender(self) -> str:
        """A program that leaves the number that it is called with."""
        wait = "\n    time.sleep(0.9)" if self.together else ""
        return f"{_START}{self.source}\ndef f(number):\n    put(number){wait}\n    return 'sent'"

    @property
    def receiver(self) -> str:
        """A program that returns the number that another program left."""
        wait = "    time.sleep(0.4)\n" if self.together else ""
        return f"{_START}{self.source}\ndef f():\n{wait}    return get()"


_START = (
    "import array, ctypes, fcntl, os, socket, struct, sys, threading, time\nlibc = ctypes.CDLL(None, use_errno=True)\n"
)
_MACHINE = "the kernel counts these for the whole machine"

#: Library files that programs may read and hardly ever do.
_LIBRARY = """
folder = os.path.dirname(os.__file__)
files = [os.path.join(folder, name) for name in ("turtle.py", "pydoc.py", "_pydecimal.py", "mailbox.py")]
"""

CHANNELS = [
    Channel(
        name="files",
        source="""
folders = [".", "..", "/tmp", "/var/tmp", "/run", "/run/script", "/dev/shm", "/box", "/", os.path.expanduser("~")]
if "PLAINLY" in os.environ: folders = ["."]
def put(number):
    for folder in folders:
        try:
            with open(os.path.join(folder, "canary"), "w") as file: file.write(str(number))
        except OSError: pass
def get():
    for folder in folders:
        try:
            with open(os.path.join(folder, "canary")) as file: return int(file.read())
        except OSError: pass
""",
    ),
    Channel(
        name="names and links",
        source="""
def put(number):
    for make in (lambda: os.mkdir(f"d{number}"), lambda: os.symlink("x", f"s{number}")):
        try: make()
        except OSError: pass
def get():
    for name in os.listdir("."):
        if name[1:].isdigit(): return int(name[1:])
""",
    ),
    Channel(
        name="inode numbers of files",
        source="""
def number_of_next():
    descriptor = os.open("probe", os.O_CREAT | os.O_WRONLY)
    found = os.fstat(descriptor).st_ino
    os.close(descriptor)
    os.unlink("probe")
    return found
def put(number):
    for _ in range(100):
        if number_of_next() % 16 == number: return
def get(): return (number_of_next() - 1) % 16
""",
    ),
    *[
        Channel(
            name=f"time of {what}",
            source=f"""
def put(number):
    deadline = time.monotonic() + 2
    while int(time.time() * 20) % 16 != number and time.monotonic() < deadline: pass
    open(os.path.join({where!r}, "touched"), "w").close()
    os.unlink(os.path.join({where!r}, "touched"))
def get(): return int(os.stat({where!r}).st_mtime * 20) % 16
""",
        )
        for what, where in (("its folder", "."), ("the folder above", ".."))
    ],
    Channel(
        name="time that is set",
        source="""
def put(number): os.utime(".", (1e9 + number, 1e9 + number))
def get(): return int(os.stat(".").st_mtime - 1e9) if os.stat(".").st_mtime < 1.1e9 else None
""",
    ),
    Channel(
        name="mode of its folder",
        source="""
def put(number): os.chmod(".", 0o700 | number)
def get(): return os.stat(".").st_mode & 15
""",
    ),
    Channel(
        name="System V memory",
        source="""
def memory():
    number = libc.shmget(0x50504552, 4096, 0o1666)
    libc.shmat.restype = ctypes.c_void_p
    address = libc.shmat(number, None, 0) if number >= 0 else None
    return (ctypes.c_char * 16).from_address(address) if address and address != 2**64 - 1 else None
def put(number):
    place = memory()
    if place is not None: place[0] = bytes([number + 1])
def get():
    place = memory()
    return place[0][0] - 1 if place is not None else None
""",
        clean="libc.shmctl(libc.shmget(0x50504552, 4096, 0), 0, None)",
    ),
    Channel(
        name="System V semaphores",
        source="""
def semaphore(): return libc.semget(0x50504553, 1, 0o1666)
def put(number): libc.semctl(semaphore(), 0, 16, number + 1)
def get(): return libc.semctl(semaphore(), 0, 12, 0) - 1
""",
        clean="libc.semctl(semaphore(), 0, 0, 0)",
    ),
    Channel(
        name="a queue of messages",
        source="""
def queue(): return libc.msgget(0x50504554, 0o1666)
def put(number): libc.msgsnd(queue(), struct.pack("<q16s", 1, bytes([number])), 16, 0o4000)
def get():
    place = ctypes.create_string_buffer(64)
    return place.raw[8] if libc.msgrcv(queue(), place, 16, 0, 0o4000) > 0 else None
""",
        clean="libc.msgctl(queue(), 0, None)",
    ),
    Channel(
        name="a key of the user",
        source="""
add, control = (248, 250) if os.uname().machine == "x86_64" else (217, 219)
user = ctypes.c_long(-4)
def call(*arguments): return libc.syscall(*(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
def put(number): call(add, b"user", b"trl_pper_canary", bytes([number + 1]), 1, user)
def key(): return call(control, 10, user, b"user", b"trl_pper_canary", 0)
def get():
    place = ctypes.create_string_buffer(8)
    return place.raw[0] - 1 if key() >= 0 and call(control, 11, key(), place, 8) > 0 else None
""",
        clean="call(control, 9, key(), user)",
    ),
    Channel(
        name="process ids",
        source="""
def put(number):
    found = []
    for _ in range(8192):
        thread = threading.Thread(target=lambda: found.append(threading.get_native_id()))
        thread.start()
        thread.join()
        if number * 256 <= found[-1] % 4096 < number * 256 + 32: return
def get(): return os.getpid() % 4096 // 256
""",
        holes=(("landlock", _MACHINE),),
    ),
    Channel(
        name="inode numbers of pipes",
        source="""
def number_of_next():
    ends = os.pipe()
    found = os.fstat(ends[0]).st_ino
    for end in ends: os.close(end)
    return found
def put(number):
    # Each processor counts by itself, in blocks of 1024. Without a jail there is one, so that every number arrives.
    if "PLAINLY" in os.environ: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    counted, end = set(), time.monotonic() + 0.3
    while time.monotonic() < end and len(counted) < (os.cpu_count() or 1):
        if libc.sched_getcpu() in counted: time.sleep(0.001)
        elif number * 64 <= number_of_next() % 1024 < number * 64 + 16: counted.add(libc.sched_getcpu())
def get():
    if "PLAINLY" in os.environ: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return number_of_next() % 1024 // 64
""",
        holes=(("namespaces", _MACHINE), ("landlock", _MACHINE)),
    ),
    Channel(
        name="flags of descriptors",
        source="""
flags = (os.O_APPEND, os.O_NONBLOCK, os.O_NOATIME, os.O_DIRECT)
def put(number):
    for descriptor in range(3):
        for some in (flags, flags[:2]):
            wanted = sum(flag for place, flag in enumerate(some) if number >> place & 1)
            try: fcntl.fcntl(descriptor, fcntl.F_SETFL, wanted)
            except OSError: continue
            break
def get():
    found = fcntl.fcntl(0, fcntl.F_GETFL)
    return sum(1 << place for place, flag in enumerate(flags) if found & flag)
""",
    ),
    Channel(
        name="words of mapped libraries",
        source="""
def words():
    number, pointer = ctypes.c_int, ctypes.c_void_p
    libc.mmap.restype, libc.mmap.argtypes = pointer, [pointer, ctypes.c_size_t, number, number, number, ctypes.c_long]
    with open(os.path.join(os.path.dirname(os.__file__), "turtle.py")) as file:
        return libc.mmap(None, 4096, 1, 1, file.fileno(), 0)
def futex(number, operation, value):
    call = 202 if os.uname().machine == "x86_64" else 98
    address = words() + 4 * number
    if operation == 0: value = ctypes.c_int.from_address(address).value
    end = (ctypes.c_long * 2)(0, 600_000_000)
    more = (end if operation == 0 else None, None, 0)
    return libc.syscall(ctypes.c_long(call), ctypes.c_void_p(address), operation, value, *more)
def put(number): threading.Thread(target=futex, args=(number, 0, 0), daemon=True).start()
def get():
    for number in range(16):
        if futex(number, 1, 1) == 1: return number
""",
        together=True,
    ),
    Channel(
        name="files kept in memory",
        source=_LIBRARY
        + """
def put(number):
    for place, name in enumerate(files):
        descriptor = os.open(name, os.O_RDONLY)
        while os.read(descriptor, 1 << 16): pass
        if number >> place & 1: os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
def is_in_memory(name):
    descriptor = os.open(name, os.O_RDONLY)
    try:
        return os.preadv(descriptor, [bytearray(1)], 8192, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    except OSError:
        start = time.perf_counter()
        os.pread(descriptor, 1, 8192)
        return time.perf_counter() - start < 3e-5
    finally:
        os.close(descriptor)
def get(): return sum((not is_in_memory(name)) << place for place, name in enumerate(files))
""",
    ),
    Channel(
        name="pages thrown out",
        source=_LIBRARY
        + """
import mmap
def put(number):
    for place, name in enumerate(files):
        with open(name, "rb") as file:
            view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
        sum(view[::4096])
        if number >> place & 1: view.madvise(21)
        view.close()
def get():
    found = 0
    for place, name in enumerate(files):
        descriptor = os.open(name, os.O_RDONLY)
        try: os.preadv(descriptor, [bytearray(1)], 8192, os.RWF_NOWAIT)
        except BlockingIOError: found |= 1 << place
        os.close(descriptor)
    return found
""",
    ),
    Channel(
        name="locks of whole files",
        source=_LIBRARY
        + """
kept = []
def put(number):
    for place, name in enumerate(files):
        if number >> place & 1:
            kept.append(open(name))
            fcntl.flock(kept[-1], fcntl.LOCK_SH)
def get():
    found = 0
    for place, name in enumerate(files):
        with open(name) as file:
            try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError: found |= 1 << place
    return found
""",
        together=True,
    ),
    *[
        Channel(
            name=f"locks of parts of files by {what}",
            source=_LIBRARY
            + f"""
kept = []
def put(number):
    for place, name in enumerate(files):
        if number >> place & 1:
            kept.append(open(name))
            fcntl.fcntl(kept[-1], {set_lock}, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0, 0, 0))
def get():
    found = 0
    for place, name in enumerate(files):
        with open(name) as file:
            answer = fcntl.fcntl(file, {get_lock}, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
            if struct.unpack_from("h", answer)[0] == fcntl.F_RDLCK: found |= 1 << place
    return found
""",
            together=True,
        )
        for what, set_lock, get_lock in (("process", 6, 5), ("open file", 37, 36))
    ],
    Channel(
        name="abstract sockets",
        source="""
kept = []
def take(number):
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(f"\\0trl-pper-canary-{number}")
    kept.append(made)
def put(number): take(number)
def get():
    for number in range(16):
        try: take(number)
        except OSError as error:
            if error.errno == 98: return number
""",
        together=True,
    ),
]

#: Tells a program whether the memory of its process, freed memory included, matches a pattern.
SEARCH_MEMORY = """
import ctypes, gc, os, re
def memory_holds(pattern):
    # A write from memory that is not there fails, and harms nobody.
    libc, ends = ctypes.CDLL(None, use_errno=True), os.pipe()
    pages = {id(each) >> 12 for each in gc.get_objects()} | {id(each) >> 12 for each in vars(os).values()}
    for page in {near for page in pages for near in range(page - 16, page + 17)}:
        if libc.write(ends[1], ctypes.c_void_p(page << 12), ctypes.c_size_t(4096)) == 4096:
            if re.search(pattern, os.read(ends[0], 4096)): return True
    return False
"""

#: Guessers of "YES" or "NO": each makes a fresh guess in each process, and tries to have a second one.
GUESSERS = {
    "answers otherwise where it has been before": """
import os, sys, types
memory = vars(sys.modules.setdefault("memory", types.ModuleType("memory")))
guess ^= memory.setdefault("guess", guess) != guess
try:
    os.mkdir("been")
except OSError:
    guess ^= 1
""",
    "fails where it may be asked again": "import os\nif time.monotonic_ns() // 1000 % 3 == 0: os._exit(1)\n",
}


def guesser(name: str) -> str:
    """Return the program of a guesser."""
    return (
        "import time\ngiven = input()\nguess = time.monotonic_ns() // 1000 % 2\n"
        f"{GUESSERS[name]}print('YES' if guess else 'NO')"
    )


def learner(channel: Channel, salt: int) -> str:
    """Return a program that guesses a digit, and tells later programs which digit was right.

    Args:
        channel: The way to tell them.
        salt: Makes equal programs differ.
    """
    # The tests call it a second time only if the first answer was right.
    return (
        f"{_START}{channel.source}\n# {salt}\n"
        "try: known = get()\nexcept Exception: known = None\n"
        "guess = known if isinstance(known, int) and 0 <= known < 10 else time.monotonic_ns() // 100 % 10\n"
        "calls = 0\ndef f(x):\n    global calls\n    calls += 1\n"
        "    if calls == 2:\n        try: put(guess)\n        except Exception: pass\n    return guess\n"
    )
