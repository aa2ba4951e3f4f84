"""S3 as s3fs speaks it, but for paths: here a key is a key, whatever is in it.

s3fs takes `?versionId=` in a path for the version of an object, though a key may hold it. Imported
when a URI of S3 is met, since s3fs takes its time.
"""

from s3fs import S3FileSystem


class PlainS3(S3FileSystem):  # type: ignore[misc]
    """Finds objects by their whole keys, unless the user's own settings ask for versions."""

    def split_path(self, path: str) -> tuple[str, str, str | None]:
        """`s3://bucket/key` → bucket, key, version."""
        if self.version_aware:
            found: tuple[str, str, str | None] = super().split_path(path)
            return found
        bare = self._strip_protocol(path).lstrip("/")
        if "/" not in bare:
            return bare, "", None
        bucket, key = self._find_bucket_key(bare)
        return bucket, key + path[len(path.rstrip("/")) :], None
