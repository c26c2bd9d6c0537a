# Prints what Ruby's encodings know of the user-defined rows, carrier symbols and others: set, encoding,
# bytes in hex, private-use code, the bytes it leads back to.

def each_double
  (0xF0..0xFC).each do |lead|
    [*0x40..0x7E, *0x80..0xFC].each { |trail| yield [lead, trail].pack("C2") }
  end
end

def private_use(bytes, from, to)
  code = bytes.dup.force_encoding(from).encode(to).force_encoding("UTF-8").codepoints
  code.size == 1 && (0xE000..0xF8FF).cover?(code[0]) ? code[0] : nil
rescue EncodingError
  nil
end

{ "docomo" => "DoCoMo", "au" => "KDDI", "softbank" => "SoftBank" }.each do |set, name|
  each_double do |bytes|
    code = private_use(bytes, "SJIS-#{name}", "UTF8-#{name}")
    next unless code
    back = [code].pack("U").force_encoding("UTF8-#{name}").encode("SJIS-#{name}").b
    puts "#{set} sjis #{bytes.unpack1("H*")} #{code.to_s(16)} #{back.unpack1("H*")}"
    next unless set == "au"
    jis = begin
      [code].pack("U").force_encoding("UTF8-KDDI").encode("ISO-2022-JP-KDDI").b
    rescue EncodingError
      next # user-defined, but no symbol of au
    end
    again = private_use(jis, "ISO-2022-JP-KDDI", "UTF8-KDDI")
    puts "au jis #{jis.unpack1("H*")} #{again.to_s(16)} #{jis.unpack1("H*")}"
  end
end
