"""The probe of fast scoring: replies, their rewards, labels, its fits round by round, its scales, the checkpoint."""
