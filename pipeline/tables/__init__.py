"""The output dataset: schemas, the commit of a shard, reading it back."""
