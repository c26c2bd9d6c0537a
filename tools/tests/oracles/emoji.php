<?php
// Prints every carrier symbol that mbstring maps to Unicode: set, Shift_JIS bytes, Unicode in UTF-8, the
// bytes that Unicode leads back to, and for SoftBank the private-use UTF-8. All in hex.

$sets = ['docomo' => 'DOCOMO', 'au' => 'KDDI', 'softbank' => 'SOFTBANK'];
foreach ($sets as $set => $name) {
    for ($lead = 0xF3; $lead <= 0xFB; $lead++) {
        for ($trail = 0x40; $trail <= 0xFC; $trail++) {
            if ($trail == 0x7F) {
                continue;
            }
            $bytes = chr($lead) . chr($trail);
            $unicode = mb_convert_encoding($bytes, 'UTF-8', "SJIS-Mobile#$name");
            if ($unicode === '' || $unicode === '?') {
                continue;
            }
            $back = mb_convert_encoding($unicode, "SJIS-Mobile#$name", 'UTF-8');
            $private = mb_convert_encoding($unicode, "UTF-8-Mobile#$name", 'UTF-8');
            echo $set, ' ', bin2hex($bytes), ' ', bin2hex($unicode), ' ', bin2hex($back), ' ', bin2hex($private), "\n";
        }
    }
}
