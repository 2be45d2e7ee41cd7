"""Rewards of finished replies: the protocol, those that ship, and the stage that scores."""
