"""Carry values between the judge's processes; nothing that crosses is executed."""
