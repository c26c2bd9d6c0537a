#!/bin/bash
# Builds the Debian package out of an installed tree: deb.sh TREE VERSION OUTPUT
#
# TREE is what `make install DESTDIR=TREE PREFIX=/usr` made; OUTPUT is the directory for the packages.
# The programs are stripped, their debug symbols go into a package of their own.
set -euo pipefail

tree=$1 version=$2 output=$3
here=$(cd "$(dirname "$0")" && pwd)
arch=$(dpkg --print-architecture)
symbols=$tree.dbgsym
rm -rf "$symbols"

install -d "$tree/DEBIAN" "$tree/etc/hikyaku" "$output"
install -m 600 "$here/hikyaku.toml" "$tree/etc/hikyaku/hikyaku.toml"
chmod 0700 "$tree/etc/hikyaku"

for program in usr/sbin/hikyakud usr/bin/hikyaku; do
    # By build id, where gdb looks.
    id=$(readelf -n "$tree/$program" | sed -n 's/.*Build ID: //p')
    debug=$symbols/usr/lib/debug/.build-id/${id:0:2}
    install -d "$debug"
    objcopy --only-keep-debug --compress-debug-sections "$tree/$program" "$debug/${id:2}.debug"
    strip --strip-unneeded "$tree/$program"
done

gzip -9nf "$tree"/usr/share/man/man1/*.1
install -m 755 "$here"/debian/{postinst,prerm,postrm} "$tree/DEBIAN/"
install -m 644 "$here/debian/conffiles" "$tree/DEBIAN/"
control() { # control TREE < template
    local size
    size=$(du -sk --exclude=DEBIAN "$1" | cut -f1)
    install -d "$1/DEBIAN"
    sed "s/@VERSION@/$version/; s/@ARCH@/$arch/; s/@SIZE@/$size/" > "$1/DEBIAN/control"
}
control "$tree" < "$here/debian/control"
sed -e '/^Recommends/d; /^Section/s/mail/debug/' -e 's/^Package: .*/Package: hikyaku-dbgsym/' \
    -e "s/^Depends: .*/Depends: hikyaku (= $version)/" -e '/^Description/,$d' "$here/debian/control" |
    { cat; echo "Description: debug symbols of hikyaku"; } | control "$symbols"

for one in "$tree" "$symbols"; do
    dpkg-deb --root-owner-group --build "$one" "$output" >&2
done
