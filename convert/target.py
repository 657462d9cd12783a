"""A target file that appears only when whole: what stands in its way, locks, disk space."""

import contextlib
import errno
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from rich.filesize import decimal

from convert import system
from convert.errors import TargetError

Buffer = bytes | bytearray | memoryview


def check_target(target: Path, force: bool) -> None:
    """Refuse a target that exists (unless force), be it a link to nothing, and one that can't be
    written, before the work that would be lost: a file like it is made beside it, and removed.
    """
    if not target.parent.is_dir():
        raise TargetError(f"there is no folder {target.parent}")
    if target.exists() and not target.is_file():
        fault = "it is a folder" if target.is_dir() else "it is a device, or a pipe"
        raise TargetError(fault, file=str(target), hint="name a file")
    if not force:
        _refuse_existing(target)
    _clear_abandoned(target)
    try:
        part = _part_of(target)
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | system.OWN))
        part.unlink(missing_ok=True)  # another conversion clears such parts
    except OSError as error:
        raise unwritable(target, error) from error


def _refuse_existing(target: Path) -> None:
    if not os.path.lexists(target):
        return
    if not target.exists():
        raise TargetError(
            f"it is a link to {target.readlink()}, which isn't there",
            file=str(target),
            hint="remove it, or use --force to replace it",
        )
    raise TargetError("it exists already", file=str(target), hint="use --force to replace it")


def check_space(target: Path, nbytes: int) -> None:
    """Refuse to start where the target's disk can't hold nbytes more."""
    free = shutil.disk_usage(target.parent).free
    if free < nbytes:
        raise _no_space(target, f"{decimal(nbytes)} are needed, and {decimal(free)} are free")


def allocate(descriptor: int, target: Path, size: int) -> None:
    """Take the disk space of target at once, so that a full disk shows before the work.

    descriptor is open for writing at the file that becomes target. A file system that can't take
    space beforehand is let be. Raises TargetError that says what the system refused.
    """
    try:
        system.take_space(descriptor, size)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            return
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(target, f"{decimal(size)} can't be had: {error.strerror}") from error
        raise unwritable(target, error) from error


def unwritable(target: Path, error: OSError) -> TargetError:
    """What the system said against writing target."""
    return TargetError(f"it can't be written: {error.strerror or error}", file=str(target))


def _no_space(target: Path, fault: str) -> TargetError:
    hint = "free some space or name another folder with -o"
    return TargetError(fault, file=str(target), hint=hint)


def write_all(descriptor: int, data: Buffer, offset: int) -> None:
    """Write all of data at offset, in as many writes as it takes."""
    view = memoryview(data)
    while view:
        count = system.write_at(descriptor, view, offset)
        view, offset = view[count:], offset + count


@contextlib.contextmanager
def whole_file(target: Path, force: bool) -> Iterator[Path]:
    """A temporary path beside target that becomes target when the block ends without an error.

    The file is synced before it gets the name; on any error it is removed. Parts that a killed
    conversion left behind are cleared first. Raises TargetError where the system refuses.
    """
    _clear_abandoned(target)
    part, lock = _part_of(target), -1
    try:
        while (lock := _create_locked(part)) < 0:
            part = _part_of(target)
        yield part
        system.sync(lock)
        with system.alone(target):
            lock = system.close_before_renaming(lock)
            publish(part, target, force)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        lock = system.close_before_renaming(lock)
        try:  # noqa: SIM105 - an interrupt could come in between, as within Path.unlink
            os.unlink(part)  # noqa: PTH108
        except FileNotFoundError:
            pass
        if lock >= 0:
            os.close(lock)


def _part_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")


def _create_locked(path: Path) -> int:
    """The descriptor of a new file, locked; -1 where another process cleared it before it was."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | system.OWN, 0o666)
    with contextlib.suppress(BlockingIOError):
        system.lock(descriptor)
        if os.fstat(descriptor).st_nlink:
            return descriptor
    os.close(descriptor)
    return -1


def publish(part: Path, target: Path, force: bool) -> None:
    """Give a whole file, whose bytes are on the disk, its name."""
    if force:
        os.replace(part, target)
    else:
        _rename_new(part, target)
    system.sync_folder(target.parent)


def _rename_new(part: Path, target: Path) -> None:
    """Give part its name unless another conversion took it meanwhile; a link never overwrites."""
    try:
        system.name_new(part, target)
    except FileExistsError:
        fault = "it was written by someone else meanwhile"
        raise TargetError(fault, file=str(target)) from None
    except OSError:  # a file system without hard links
        _refuse_existing(target)
        os.replace(part, target)
    part.unlink(missing_ok=True)  # at once: the bytes would stay for as long as the part does


def _clear_abandoned(target: Path) -> None:
    """Remove parts of this target that no living process holds a lock on."""
    for part in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        with contextlib.suppress(OSError), system.alone(target):
            descriptor = os.open(part, os.O_RDWR | system.NO_FOLLOW)
            try:
                system.lock(descriptor)
                descriptor = system.close_before_renaming(descriptor)
                part.unlink(missing_ok=True)
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
