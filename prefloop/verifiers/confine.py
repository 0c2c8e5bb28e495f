"""What runs inside the sandbox's process: it closes the process in, then runs a program. Standard library only, nothing of prefloop.

Started as `python -I confine.py LIMITS TASK RESULT`: limits as JSON, and the numbers of two open files. The task's first line is the program,
its second the tests and a token, both as JSON. The token is written to the result after all tests have passed, so a program that ends
early, whatever its exit code, has passed nothing.

After `close_in` the kernel refuses every system call that is not in `ALLOWED`. What a program has left is its own memory, clocks, threads,
files to read, and the output files it was started with.
"""

import ctypes
import json
import os
import platform
import struct
import sys
import traceback

ALLOWED = {
    # name: (x86_64, aarch64), -1 if a processor has no such call
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "stat": (4, -1),
    "fstat": (5, 80),
    "lstat": (6, -1),
    "poll": (7, -1),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "ioctl": (16, 29),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "access": (21, -1),
    "pipe": (22, -1),
    "select": (23, -1),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "dup": (32, 23),
    "dup2": (33, -1),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "exit": (60, 93),
    "uname": (63, 160),
    "fcntl": (72, 25),
    "getcwd": (79, 17),
    "readlink": (89, -1),
    "gettimeofday": (96, 169),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "times": (100, 153),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getppid": (110, 173),
    "sigaltstack": (131, 132),
    "arch_prctl": (158, -1),
    "gettid": (186, 178),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "getdents64": (217, 61),
    "set_tid_address": (218, 96),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "newfstatat": (262, 79),
    "readlinkat": (267, 78),
    "faccessat": (269, 48),
    "pselect6": (270, 72),
    "ppoll": (271, 73),
    "set_robust_list": (273, 99),
    "dup3": (292, 24),
    "pipe2": (293, 59),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
    "statx": (332, 291),
    "rseq": (334, 293),
    "faccessat2": (439, 439),
}
OPEN, OPENAT, CLONE, CLONE3, PRLIMIT, TGKILL = (
    (2, -1),
    (257, 56),
    (56, 220),
    (435, 435),
    (302, 261),
    (234, 131),
)
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7), "arm64": (1, 0xC00000B7)}

_WRITES = 0o3 | os.O_CREAT | os.O_TRUNC | getattr(os, "O_TMPFILE", 0) & ~getattr(os, "O_DIRECTORY", 0)
_THREAD = 0x00010000
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _EACCES, _ENOSYS = 1, 13, 38
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06


def _filter(machine):
    """The instructions of the kernel's filter (classic BPF): each is a code, two jumps and a number."""
    place, architecture = ARCHITECTURES[machine]
    rules = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    for numbers in ALLOWED.values():
        if numbers[place] >= 0:
            rules += [(_EQUAL, 0, 1, numbers[place]), (_RETURN, 0, 0, _ALLOW)]

    def on(numbers, *then):
        if numbers[place] >= 0:
            rules.extend([(_EQUAL, 0, len(then), numbers[place]), *then])

    def argument(index):
        return (_LOAD, 0, 0, 16 + 8 * index)  # its lower half

    allow, deny = (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERROR | _EPERM)
    read_only = ((_ANY_BIT, 0, 1, _WRITES), (_RETURN, 0, 0, _ERROR | _EACCES), allow)
    on(OPEN, argument(1), *read_only)
    on(OPENAT, argument(2), *read_only)
    on(CLONE, argument(0), (_ANY_BIT, 1, 0, _THREAD), deny, allow)  # a thread, but no process
    on(CLONE3, (_RETURN, 0, 0, _ERROR | _ENOSYS))  # its flags cannot be seen; glibc then takes clone
    on(PRLIMIT, argument(0), (_EQUAL, 1, 0, 0), deny, allow)  # its own limits, which cannot be raised
    on(TGKILL, argument(0), (_EQUAL, 1, 0, os.getpid()), deny, allow)  # abort()
    return [*rules, deny]


def close_in():
    """Let the kernel refuse everything that is not allowed, for this process and for good. `OSError` where it cannot."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ARCHITECTURES:
        raise OSError(f"no filter of system calls for {sys.platform} on {machine}")
    rules = _filter(machine)
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    program = ctypes.create_string_buffer(struct.pack("HP", len(rules), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_filter = 38, 22
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(set_filter, 2, program, 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel takes no filter of system calls (seccomp)")


def _limit(limits):
    import resource

    bytes_of_memory = limits["memory_mb"] << 20
    for name, value in (
        ("RLIMIT_CPU", limits["seconds"]),
        ("RLIMIT_AS", bytes_of_memory),
        ("RLIMIT_FSIZE", limits["output_kb"] << 10),
        ("RLIMIT_NOFILE", 64),
        ("RLIMIT_NPROC", 64),  # threads count too
        ("RLIMIT_CORE", 0),
    ):
        which = getattr(resource, name)
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))


def main():
    """Run one program and its tests, and say whether all was well."""
    limits = json.loads(sys.argv[1])
    task, result = int(sys.argv[2]), int(sys.argv[3])
    try:
        _limit(limits)
        if not limits["unconfined"]:
            close_in()
    except (OSError, ImportError, ValueError) as error:
        os.write(result, f"not confined: {error}".encode())
        os._exit(1)
    source = os.fdopen(task, "r", encoding="utf-8", closefd=False)
    space = {"__name__": "__main__", "__builtins__": __builtins__}
    passed = True
    try:
        try:
            exec(compile(json.loads(source.readline()), "<program>", "exec"), space)
        except SystemExit as ended:
            passed = limits["may_exit"] and not ended.code
        if passed:
            tests, token = json.loads(source.readline())
            exec(compile(tests, "<tests>", "exec"), space)
            sys.stdout.flush()
            os.write(result, token.encode())
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)  # threads that go on, and functions registered for the end, are not waited for


if __name__ == "__main__":
    main()
