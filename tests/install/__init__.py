"""The program as an administrator gets it: by the README's steps, as a Debian package, as a wheel."""
