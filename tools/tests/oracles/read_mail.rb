# Reads messages with Ruby's mail gem and prints what it sees; input and output as read_mail.py has them.

require "mail"
require "zlib"

def hexed(text)
  hex = text.to_s.encode("UTF-8").unpack1("H*")
  hex.empty? ? "-" : hex
end

def address(field)
  first = field.addrs.first
  local = first.local.to_s.gsub(/\A"|"\z/, "").gsub(/\\(.)/, '\1')
  "#{hexed(first.display_name)} #{hexed("#{local}@#{first.domain}")}"
end

def walk(part, depth, out)
  kind = part.mime_type
  if part.multipart?
    out << "P #{depth} #{kind} - -"
    part.parts.each { |child| walk(child, depth + 1, out) }
    return
  end
  text = kind.start_with?("text/") && part.content_disposition.to_s.empty?
  content = text ? hexed(part.decoded.gsub("\r\n", "\n")) : Zlib.crc32(part.body.decoded.b).to_s
  out << "P #{depth} #{kind} #{hexed(part.filename)} #{content}"
end

$stdin.binmode
$stdout.sync = false
while (line = $stdin.gets)
  mail = Mail.new($stdin.read(line.to_i))
  out = ["S #{hexed(mail.subject)}"]
  out << "F #{address(mail[:from])}"
  out << "T #{address(mail[:to])}"
  walk(mail, 0, out)
  puts out, "E"
end
