"""Borrow a MODEL and differentiate it: find and tune."""
