"""A filesystem of memory that goes by the scheme of a store whose package is not installed."""

from fsspec.implementations.memory import MemoryFileSystem


class OtherStore(MemoryFileSystem):
    """What adlfs or ocifs would be."""

    protocol = ("az", "oci")
    store: dict = {}
    pseudo_dirs = [""]
    cachable = False
    root_marker = ""

    @classmethod
    def _strip_protocol(cls, path):
        return path.partition("://")[2].strip("/") if "://" in path else path.strip("/")

    def unstrip_protocol(self, name):
        return f"az://{self._strip_protocol(name)}"
