"""A published version at work: labels shards, predicts masks, gathers evidence."""
