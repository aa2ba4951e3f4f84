"""How many cores this process may use: by its affinity and its cgroup, not by the machine.

A container or a batch job that is granted 4 of 64 cores would otherwise start 64 threads.
"""

from loky import cpu_count


def granted_cores() -> int:
    """At least 1; `LOKY_MAX_CPU_COUNT` lowers it further."""
    return max(1, int(cpu_count()))


def use_granted_cores() -> None:
    """Have libraries that make threads of their own in this process stay within the grant.

    Ray's workers are told by Ray how many threads they have.
    """
    import pyarrow as pa

    pa.set_cpu_count(granted_cores())
