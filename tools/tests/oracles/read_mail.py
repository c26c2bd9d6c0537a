"""Reads messages with Python's email package and prints what it sees, for template_readback.rs.

Input (standard input): for each message its length in bytes, a line end, its bytes.
Output, a line each, text in hex of UTF-8:
  S subject / F name address / T name address / P depth type filename content / E (end of message)
Content is the text with LF line ends, or a CRC-32 in decimal for what is no text.
"""

import sys
import zlib
from email import message_from_bytes
from email.header import decode_header, make_header
from email.policy import compat32, default
from email.utils import getaddresses


def hexed(text):
    return (text or "").encode("utf-8", "surrogateescape").hex() or "-"


def address(header):
    # Not by the default policy: up to Python 3.12 it leaves a space between two encoded words of a
    # display name, against RFC 2047 section 6.2.
    name, bare = getaddresses([header])[0]
    return f"{hexed(str(make_header(decode_header(name))))} {hexed(bare.replace(chr(34), ''))}"


def walk(part, depth, out):
    kind = part.get_content_type()
    if part.is_multipart():
        out.append(f"P {depth} {kind} - -")
        for child in part.iter_parts():
            walk(child, depth + 1, out)
        return
    name = part.get_filename()
    if part.get_content_maintype() == "text" and part.get_content_disposition() is None:
        content = hexed(part.get_content().replace("\r\n", "\n"))
    else:
        content = str(zlib.crc32(part.get_payload(decode=True)))
    out.append(f"P {depth} {kind} {hexed(name)} {content}")


def main():
    stream = sys.stdin.buffer
    while line := stream.readline():
        source = stream.read(int(line))
        message = message_from_bytes(source, policy=default)
        plain = message_from_bytes(source, policy=compat32)
        out = [f"S {hexed(message['subject'])}"]
        out.append(f"F {address(plain['from'])}")
        out.append(f"T {address(plain['to'])}")
        walk(message, 0, out)
        print("\n".join(out))
        print("E")


main()
