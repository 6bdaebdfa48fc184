// SPDX-License-Identifier: Apache-2.0

import java.net.InetAddress;
import java.net.UnknownHostException;
import java.util.Arrays;

/** Resolves its argument like most programs in Java. The time goes to stderr. */
public class Lookup {
    public static void main(String[] args) {
        long start = System.nanoTime();
        String result;
        try {
            result = Arrays.toString(InetAddress.getAllByName(args[0]));
        } catch (UnknownHostException e) {
            result = "error: " + e.getMessage();
        }
        System.err.printf("%s %d us%n", args[0], (System.nanoTime() - start) / 1000);
        System.out.println(args[0] + " " + result);
    }
}
