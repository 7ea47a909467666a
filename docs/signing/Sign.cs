// Calls an API behind Ostiary with a request signed by the scheme `hmac`. Needs .NET 5 or later (or Mono), and no package.
//
//     OSTIARY_KEY_ID=ak_... OSTIARY_SECRET=sk_... dotnet run GET http://127.0.0.1:8080/v1/clients
//     OSTIARY_KEY_ID=ak_... OSTIARY_SECRET=sk_... dotnet run POST http://127.0.0.1:8080/v1/clients '{"name": "Ada"}'

using System;
using System.Net.Http;
using System.Net.Http.Headers;
using System.Security.Cryptography;
using System.Text;
using System.Threading.Tasks;

static class Sign
{
    static string Hex(byte[] octets)
    {
        return BitConverter.ToString(octets).Replace("-", "").ToLowerInvariant();
    }

    /// <summary>Adds the headers that sign a request, whose target and body must not change afterwards.</summary>
    static void SignRequest(HttpRequestMessage request, byte[] body, string keyId, string secret)
    {
        string timestamp = DateTimeOffset.UtcNow.ToUnixTimeSeconds().ToString();
        var random = new byte[16];
        using (var generator = RandomNumberGenerator.Create()) generator.GetBytes(random);
        string nonce = Hex(random);
        string bodySha256;
        using (var sha256 = SHA256.Create()) bodySha256 = Hex(sha256.ComputeHash(body));
        // PathAndQuery is the target as HttpClient sends it, which may differ from the text that the Uri was made from.
        string text = string.Join("\n", request.Method.Method, request.RequestUri.PathAndQuery, timestamp, nonce, bodySha256);
        string signature;
        using (var hmac = new HMACSHA256(Encoding.UTF8.GetBytes(secret)))
            signature = Hex(hmac.ComputeHash(Encoding.UTF8.GetBytes(text)));
        request.Headers.Add("X-API-Key", keyId + ":" + signature);
        request.Headers.Add("X-Timestamp", timestamp);
        request.Headers.Add("X-Nonce", nonce);
    }

    static int Main(string[] args)
    {
        return Call(args).GetAwaiter().GetResult();
    }

    static async Task<int> Call(string[] args)
    {
        byte[] body = args.Length > 2 ? Encoding.UTF8.GetBytes(args[2]) : new byte[0];
        var request = new HttpRequestMessage(new HttpMethod(args[0]), args[1]);
        if (body.Length > 0)
        {
            request.Content = new ByteArrayContent(body);
            request.Content.Headers.ContentType = new MediaTypeHeaderValue("application/json");
        }
        SignRequest(
            request,
            body,
            Environment.GetEnvironmentVariable("OSTIARY_KEY_ID"),
            Environment.GetEnvironmentVariable("OSTIARY_SECRET")
        );
        // A signature is for one target: no redirect is followed.
        using (var client = new HttpClient(new HttpClientHandler { AllowAutoRedirect = false }))
        {
            HttpResponseMessage answer = await client.SendAsync(request);
            Console.WriteLine("{0} {1}", (int)answer.StatusCode, await answer.Content.ReadAsStringAsync());
            return answer.IsSuccessStatusCode ? 0 : 1;
        }
    }
}
