// SPDX-License-Identifier: Apache-2.0

import java.net.InetAddress;
import java.net.UnknownHostException;
import java.util.Arrays;

/** Resolves its arguments like most programs in Java. Their times go to stderr. */
public class Lookup {
    public static void main(String[] args) {
        for (String name : args) {
            System.out.println(name + " " + resolve(name));
        }
    }

    private static String resolve(String name) {
        long start = System.nanoTime();
        try {
            return Arrays.toString(InetAddress.getAllByName(name));
        } catch (UnknownHostException e) {
            return "error: " + e.getMessage();
        } finally {
            System.err.printf("%s %d us%n", name, (System.nanoTime() - start) / 1000);
        }
    }
}
