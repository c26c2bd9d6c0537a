"""Reads messages with Python's email package and prints what it sees, for template_readback.rs.

Input (standard input): for each message its length in bytes, a line end, its bytes.
Output, a line each, text in hex of UTF-8:
  S subject / F name address / T name address / P depth type filename content / E (end of message)
Content is the text with LF line ends, or a CRC-32 in decimal for what is no text.
"""

import sys
import zlib
from email import message_from_bytes
from email.policy import default


def hexed(text):
    return (text or "").encode("utf-8", "surrogateescape").hex() or "-"


def address(header):
    first = header.addresses[0]
    return f"{hexed(first.display_name)} {hexed(first.username + '@' + first.domain)}"


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
        message = message_from_bytes(stream.read(int(line)), policy=default)
        out = [f"S {hexed(message['subject'])}"]
        out.append(f"F {address(message['from'])}")
        out.append(f"T {address(message['to'])}")
        walk(message, 0, out)
        print("\n".join(out))
        print("E")


main()
