"""Names of files in the folder of a run that are read without Paddle too."""

METRICS = "metrics.jsonl"
VISUALDL = "vdl"
LOG = "train.log"
STARTS = "starts.jsonl"
