"""Real dialogues: one file a corpus, each `load(data_dir) -> Dataset`, and people's own logs."""
