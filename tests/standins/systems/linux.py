"""What the stand-ins themselves ask Linux, which is hidden from llamacli's modules only."""


def peak_resident() -> int:
    """Bytes of this process's peak of memory; getrusage counts its parent's before an exec, too."""
    with open("/proc/self/status", encoding="ascii") as status:
        (peak,) = (int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return peak * 1024
