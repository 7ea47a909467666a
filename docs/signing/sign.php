<?php
// Calls an API behind Ostiary with a request signed by the scheme `hmac`. Needs PHP 7.1 or later, and no extension.
//
//     OSTIARY_KEY_ID=ak_... OSTIARY_SECRET=sk_... php sign.php GET http://127.0.0.1:8080/v1/clients
//     OSTIARY_KEY_ID=ak_... OSTIARY_SECRET=sk_... php sign.php POST http://127.0.0.1:8080/v1/clients '{"name": "Ada"}'

/** The header lines that sign a request. $target is path and ?query exactly as sent; $body the bytes exactly as sent. */
function sign(string $keyId, string $secret, string $method, string $target, string $body): array
{
    $timestamp = (string) time();
    $nonce = bin2hex(random_bytes(16));
    $text = implode("\n", [$method, $target, $timestamp, $nonce, hash('sha256', $body)]);
    $signature = hash_hmac('sha256', $text, $secret);
    return ["X-API-Key: $keyId:$signature", "X-Timestamp: $timestamp", "X-Nonce: $nonce"];
}

function call(string $keyId, string $secret, string $method, string $url, string $body = ''): array
{
    $parts = parse_url($url);
    $target = ($parts['path'] ?? '/') . (isset($parts['query']) ? '?' . $parts['query'] : '');
    $headers = sign($keyId, $secret, $method, $target, $body);
    if ($body !== '') {
        $headers[] = 'Content-Type: application/json';
    }
    $options = ['method' => $method, 'header' => $headers, 'ignore_errors' => true, 'timeout' => 30,
        'follow_location' => 0]; // a signature is for one target
    if ($body !== '') {
        $options['content'] = $body;
    }
    $answer = file_get_contents($url, false, stream_context_create(['http' => $options]));
    preg_match('~^HTTP/\S+ (\d+)~', $http_response_header[0], $status);
    return [(int) $status[1], $answer];
}

[, $method, $url] = $argv;
[$status, $text] = call(getenv('OSTIARY_KEY_ID'), getenv('OSTIARY_SECRET'), $method, $url, $argv[3] ?? '');
echo "$status $text\n";
exit($status < 300 ? 0 : 1);
