"""What all other folders use: errors of one line, files that appear whole, trees and their paths, sections of a config.

May import no other folder.
"""
