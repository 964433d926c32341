"""The words of Everywire as data: publications, positions, logs, limits, codes, errors.

Standard library only, and no input or output of any kind.
"""
