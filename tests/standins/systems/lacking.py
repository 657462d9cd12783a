"""What macOS and Windows lack of Python's library, and who doesn't find it: our packages alone."""

import sys

OURS = ("llamacli", "convert")
PYTHONS = (
    "pathlib",
    "importlib",
    "os",
    "contextlib",
    "shutil",
    "tempfile",
    "subprocess",
    "weakref",
)

LACKING = {
    "macos": {
        "os": "copy_file_range eventfd fdatasync getrandom memfd_create pidfd_open pipe2 "
        "posix_fadvise posix_fallocate preadv2 pwritev2 sched_getaffinity sched_setaffinity splice "
        "O_DIRECT O_PATH O_TMPFILE",
        "signal": "SIGPOLL SIGPWR SIGRTMAX SIGRTMIN SIGSTKFLT pidfd_send_signal sigtimedwait "
        "sigwaitinfo",
        "select": "epoll",
        "modules": "msvcrt",
    },
    "windows": {
        "os": "WEXITSTATUS WIFEXITED WIFSIGNALED WNOHANG WTERMSIG chown copy_file_range ctermid "
        "eventfd fchmod fchown fdatasync fork forkpty getegid geteuid getgid getgroups getloadavg "
        "getpgid getpriority getrandom getsid getuid killpg lchown lockf memfd_create mkfifo mknod "
        "nice openpty pathconf pidfd_open pipe2 posix_fadvise posix_fallocate posix_spawn pread "
        "preadv preadv2 pwrite pwritev pwritev2 register_at_fork sched_getaffinity "
        "sched_setaffinity sched_yield sendfile setpgid setpriority setsid splice statvfs sync "
        "sysconf uname wait wait3 wait4 waitid O_CLOEXEC O_DIRECT O_DIRECTORY O_NOFOLLOW "
        "O_NONBLOCK O_PATH O_SYNC O_TMPFILE",
        "signal": "ITIMER_REAL SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP "
        "SIGTSTP SIGTTIN SIGTTOU SIGUSR1 SIGUSR2 SIGWINCH alarm getitimer pause pthread_kill "
        "pthread_sigmask setitimer siginterrupt sigpending sigwait sigwaitinfo",
        "select": "epoll poll",
        "socket": "AF_UNIX SO_REUSEPORT",
        "multiprocessing.context": "ForkContext ForkServerContext",
        "time": "CLOCK_MONOTONIC CLOCK_PROCESS_CPUTIME_ID CLOCK_REALTIME clock_gettime "
        "clock_gettime_ns tzset",
        "modules": "fcntl grp posix pty pwd readline resource syslog termios tty",
    },
}


def is_ours(depth: int, but: tuple[str, ...] = PYTHONS) -> bool:
    """Whether the nearest frame, but for some of Python's own files', is of our packages."""
    frame = sys._getframe(depth)
    while frame is not None:
        name = frame.f_globals.get("__name__", "").partition(".")[0]
        if name not in (*but, "lacking", "habits", "sitecustomize"):
            return name in OURS
        frame = frame.f_back
    return False
